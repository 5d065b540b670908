"""HTML pages that need no other file: one style, tables, pictures inside."""

import base64
import html
import json
from collections.abc import Iterable, Mapping
from typing import Any

from ._columns import Piece, aligned

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }}
h1 {{ font-size: 1.6rem; }} h2 {{ font-size: 1.15rem; margin-top: 2rem; }}
h3 {{ font-size: 1rem; margin-bottom: .3rem; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; white-space: nowrap; }}
th, td {{ text-align: left; padding: .35rem .9rem .35rem 0; border-bottom: 1px solid #ddd; }}
th {{ border-bottom: 2px solid #222; }} .summary tr:last-child td {{ color: #666; }}
.summary th {{ white-space: normal; min-width: 5.5rem; vertical-align: bottom; }}
.pad {{ visibility: hidden; user-select: none; }}
.levels table {{ font-size: .85rem; }} .levels th, .levels td {{ padding-right: .7rem; }}
.scroll {{ overflow-x: auto; }} figure {{ margin: 1rem 0; }} img {{ max-width: 100%; height: auto; }}
figcaption, footer, li {{ color: #444; font-size: .93rem; }}
.said li {{ color: #222; font-size: 1rem; }}
pre {{ background: #f6f6f6; padding: .8rem; overflow-x: auto; font-size: .82rem; }}
@media print {{
html, body {{ font-size: 10pt; }} body {{ max-width: none; margin: 0; }}
h2, h3 {{ break-after: avoid; }} figure, tr {{ break-inside: avoid; }}
.scroll {{ overflow: visible; }} table {{ white-space: normal; }} .scroll table {{ font-size: 8pt; }}
th, td {{ vertical-align: top; }} pre {{ white-space: pre-wrap; overflow-wrap: anywhere; }}
}}
</style>
</head>
<body>
<h1>{title}</h1>
{body}
<h2>How this was made</h2>
{made}
<details><summary>Configuration and versions</summary><pre>{manifest}</pre></details>
<footer>Every number of this page is in <code>results.nc</code>, labelled.</footer>
</body>
</html>
"""


def page(
    title: str, parts: Iterable[str], manifest: Mapping[str, Any], command: str | None = None
) -> str:
    """A page of parts that are HTML already, the command line that made it, if one did, and the manifest."""
    return _PAGE.format(
        title=html.escape(title),
        body="\n".join(parts),
        made="<p>In Python.</p>" if command is None else f"<pre>{html.escape(command)}</pre>",
        manifest=html.escape(json.dumps(manifest, indent=2)),
    )


def heading(text: str, level: int = 2) -> str:
    """A heading."""
    return f"<h{level}>{html.escape(text)}</h{level}>"


def paragraph(text: str) -> str:
    """A paragraph of plain text."""
    return f"<p>{html.escape(text)}</p>"


def items(texts: Iterable[str], kind: str = "notes") -> str:
    """A list of plain texts; `kind` is "notes", or "said" for what is concluded."""
    return f"<ul class={kind}>{''.join(f'<li>{html.escape(text)}</li>' for text in texts)}</ul>"


def table(header: list[str], rows: list[list[str]], kind: str = "levels") -> str:
    """A table that scrolls where it is too wide; `kind` is "summary", whose last row is a null, "verdicts" or "levels"."""
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    columns = [aligned(cells) for cells in zip(*rows, strict=True)]
    body = "".join(
        "<tr>" + "".join(f"<td>{''.join(map(_piece, cell))}</td>" for cell in row) + "</tr>"
        for row in zip(*columns, strict=True)
    )
    return (
        f'<div class="scroll {kind}"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _piece(piece: Piece) -> str:
    text = html.escape(piece.text)
    return text if piece.is_seen else f'<span class="pad">{text}</span>'


def picture(png: bytes, caption: str) -> str:
    """A picture with its caption, which is its text for those who cannot see it."""
    text = html.escape(caption)
    return (
        f'<figure><img alt="{text}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
        f"<figcaption>{text}</figcaption></figure>"
    )

"""What is in the archives of a release: `python .ci/archives.py DIST AGAIN`, folders of the archives and of a second wheel.

The wheel holds the package and nothing else, the same files whether it is built from the source archive or from the sources,
and stays small; the source archive has what its tests need; what an index shows of the README leads nowhere by accident.
"""

import email
import re
import sys
import tarfile
import zipfile
from pathlib import Path

from readme_renderer import markdown

LARGEST = 1_000_000  # bytes of the wheel


def contents(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def main(dist, again):
    (wheel,), (second,) = Path(dist).glob("*.whl"), Path(again).glob("*.whl")
    (source,) = Path(dist).glob("*.tar.gz")
    files, others = contents(wheel), contents(second)
    assert files.keys() == others.keys(), set(files) ^ set(others)
    assert not [name for name in files if files[name] != others[name]]
    assert wheel.stat().st_size < LARGEST, wheel.stat().st_size
    tops = {name.split("/")[0] for name in files}
    (metadata,) = (top for top in tops if top.endswith(".dist-info"))
    assert tops == {"smoothjax", metadata}, tops
    kinds = {Path(name).suffix for name in files if name.startswith("smoothjax/")}
    assert kinds == {".py", ".typed", ".bib"}, kinds
    here = Path(__file__).parent.parent
    package = {str(path.relative_to(here)) for path in (here / "smoothjax").rglob("*.*")}
    package = {name for name in package if "__pycache__" not in name}
    assert package == {name for name in files if name.startswith("smoothjax/")}
    assert "smoothjax/py.typed" in files and f"{metadata}/licenses/LICENSE" in files
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    needed = (
        "tests/zoo.py",
        "conftest.py",
        "docs/conf.py",
        "CITATION.cff",
        "CHANGELOG.md",
        "LICENSE",
    )
    assert names.issuperset(needed), set(needed) - names
    assert not [name for name in names if re.match(r"\.venv|build/|dist/|\.git/|runs/", name)]
    about = email.message_from_bytes(files[f"{metadata}/METADATA"])
    assert about["Version"] in wheel.name and about["Description-Content-Type"] == "text/markdown"
    page = markdown.render(about.get_payload(decode=True).decode())
    assert page is not None and "<h2" in page and "<pre" in page
    lost = [
        link
        for link in re.findall(r"(?:href|src)=\"([^\"]*)\"", page)
        if not re.match(r"https?://|#user-content-", link)
    ]
    assert not lost, lost
    print(f"{wheel.name}: {len(files)} files, {wheel.stat().st_size / 1e6:.2f} MB;", end=" ")
    print(f"{source.name}: {source.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main(*sys.argv[1:])

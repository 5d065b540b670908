"""The Python blocks of the README and of the pages in docs run as they stand."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BLOCKS = [
    pytest.param(block, id=f"{page.name}-{k}")
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    for k, block in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL))
]


def test_the_readme_has_a_block():
    assert any(block.id.startswith("README") for block in BLOCKS)


@pytest.mark.doctest
@pytest.mark.parametrize("block", BLOCKS)
def test_block_runs(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "block", "exec"), {})

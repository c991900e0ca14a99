"""docs/adding-a-family.md quotes files and names tests: they are as it says."""

import re
from pathlib import Path
from textwrap import indent

import pytest

ROOT = Path(__file__).parents[3]
GUIDE = (ROOT / "docs/adding-a-family.md").read_text()
QUOTED = ["model/families/olmoe.py", "tests/model/families/tiny/olmoe.json"]


def quoted(text: str) -> bool:
    return f"\n\n{indent(text, '    ')}\n" in GUIDE


@pytest.mark.parametrize("path", QUOTED)
def test_files_are_quoted_as_they_are(path: str) -> None:
    text = (ROOT / path).read_text()
    assert quoted(text), f"quote {path} anew in docs/adding-a-family.md"
    assert not quoted(text + "# another line\n")  # negative control


def test_the_tests_it_names_exist() -> None:
    sources = [path.read_text() for path in (ROOT / "tests/model/families").glob("test_*.py")]
    named = set(re.findall(r"`(test_\w+)`", GUIDE))
    assert len(named) > 5
    for name in named:
        assert any(f"def {name}(" in source for source in sources), name


def test_the_files_it_names_exist() -> None:
    named = set(re.findall(r"`((?:model|tests)/[\w/.]+\.\w+)`", GUIDE))
    assert len(named) > 5
    for name in named:
        assert (ROOT / name).is_file(), name

"""The security page names tests that exist."""

import re

from .files import ROOT

PAGE = ROOT / "docs/security.md"


def test_every_named_test_exists() -> None:
    folder, missing, found = ROOT, [], 0
    for name in re.findall(r"`([\w./]*(?:test_\w+\.py|tests/[\w/]+/))`", PAGE.read_text()):
        path = ROOT / name if "/" in name else folder / name
        folder, found = path.parent, found + 1
        if not path.exists():
            missing.append(name)
    assert found > 15
    assert missing == []

"""The systemd unit, as systemd itself reads it, and against what the server says."""

import re
import subprocess
from pathlib import Path

import pytest

from server.settings import Settings

from .files import DEPLOY, program

UNIT = DEPLOY / "systemd/routelm.service"
MOST_EXPOSED = 15  # of 100, by systemd's own count


def analyze(*words: str) -> subprocess.CompletedProcess[str]:
    command = [program("systemd-analyze", "Debian package systemd"), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def verified(folder: Path, text: str) -> str:
    """What systemd says of a unit whose program is there."""
    path = folder / "routelm.service"
    path.write_text(text.replace("/opt/routelm/bin/routelm", "/bin/true"))
    return analyze("verify", "--man=no", str(path)).stderr


def test_systemd_finds_nothing_wrong(tmp_path: Path) -> None:
    assert "routelm.service" not in verified(tmp_path, UNIT.read_text())


def test_systemd_finds_a_wrong_line(tmp_path: Path) -> None:
    assert "ProtectHomes" in verified(tmp_path, UNIT.read_text().replace("ProtectHome=", "ProtectHomes="))


@pytest.mark.parametrize(("without", "exposed"), [("", False), ("ProtectSystem|Restrict.*|SystemCallFilter", True)])
def test_the_service_is_confined(tmp_path: Path, without: str, exposed: bool) -> None:
    path = tmp_path / "routelm.service"
    path.write_text(re.sub(rf"^({without or 'none'})=.*\n", "", UNIT.read_text(), flags=re.MULTILINE))
    done = analyze("security", "--offline=true", f"--threshold={MOST_EXPOSED}", "--no-pager", str(path))
    assert (done.returncode != 0) == exposed, done.stdout[-300:] + done.stderr


def test_the_engine_is_not_killed_while_it_drains() -> None:
    text = UNIT.read_text()
    stop, grace = re.search(r"TimeoutStopSec=(\d+)", text), re.search(r"ROUTELM_DRAIN_GRACE=(\d+)", text)
    assert stop is not None
    assert grace is not None
    assert int(stop[1]) >= int(grace[1]) + 10


def test_every_setting_is_one_of_the_server() -> None:
    for name in re.findall(r"ROUTELM_(\w+)=", UNIT.read_text()):
        assert name.lower() in Settings.model_fields, name

"""`routelm keys`: what it writes opens the server, and only the hash is kept."""

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from server.cli import app
from server.middleware.api_keys import ApiKeys, hash_key, read_api_keys

RUNNER = CliRunner()


@pytest.mark.parametrize("name", ["keys.toml", "keys.json"])
def test_created_keys_open(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    secrets = []
    for number, options in enumerate([[], ["--scopes", "inference, batches", "--requests-per-minute", "5"]]):
        result = RUNNER.invoke(app, ["keys", "create", f"key-{number}", "--keys-file", str(path), *options])
        assert result.exit_code == 0, result.output
        secrets.append(result.output.strip())
    keys = ApiKeys(path)
    found = [keys.find(secret.encode()) for secret in secrets]
    assert [key and key.name for key in found] == ["key-0", "key-1"]
    assert not any(secret in path.read_text() for secret in secrets)
    assert path.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in tmp_path.iterdir()] == [name]
    listed = RUNNER.invoke(app, ["keys", "list", "--keys-file", str(path)]).output
    assert listed == "key-0  inference\nkey-1  batches,inference  requests_per_minute=5\n"


def test_comments_stay(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    path.write_text("# of the team\n")
    RUNNER.invoke(app, ["keys", "create", "a", "--keys-file", str(path)])
    assert path.read_text().startswith("# of the team\n")
    assert len(read_api_keys(path)) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["a"], "two keys have the name a"), (["b c"], "keys.1.name"), (["b", "--scopes", "x"], "keys.1.scopes.0")],
)
def test_what_is_wrong_is_not_written(tmp_path: Path, arguments: list[str], message: str) -> None:
    path = tmp_path / "keys.toml"
    RUNNER.invoke(app, ["keys", "create", "a", "--keys-file", str(path)])
    before = path.read_text()
    result = RUNNER.invoke(app, ["keys", "create", *arguments, "--keys-file", str(path)])
    assert result.exit_code == 2
    assert message in result.output
    assert path.read_text() == before


def test_a_key_that_the_file_cannot_take_is_not_printed(tmp_path: Path) -> None:
    """TOML has no way to go on with an array that is written in one line."""
    path = tmp_path / "keys.toml"
    path.write_text("keys = []\n")
    result = RUNNER.invoke(app, ["keys", "create", "a", "--keys-file", str(path)])
    assert result.exit_code == 2
    assert "[[keys]]" in result.output
    assert "rlm-" not in result.output
    assert path.read_text() == "keys = []\n"


def test_whoever_could_read_the_file_still_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, given = tmp_path / "keys.toml", list[tuple[int, int]]()
    path.touch()
    path.chmod(0o660)  # umasks take the group's right to write away
    monkeypatch.setattr(os, "chown", lambda _, user, group: given.append((user, group)))
    assert RUNNER.invoke(app, ["keys", "create", "a", "--keys-file", str(path)]).exit_code == 0
    assert path.stat().st_mode & 0o777 == 0o660
    assert given == [(path.stat().st_uid, path.stat().st_gid)]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_the_owner_of_the_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    path.touch(mode=0o600)
    os.chown(path, 65534, 65533)
    assert RUNNER.invoke(app, ["keys", "create", "a", "--keys-file", str(path)]).exit_code == 0
    stat = path.stat()
    assert (stat.st_uid, stat.st_gid, stat.st_mode & 0o777) == (65534, 65533, 0o600)


def test_a_file_whose_owner_cannot_stay_is_left_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    path = tmp_path / "keys.toml"
    path.touch()
    monkeypatch.setattr(os, "chown", refuse)
    result = RUNNER.invoke(app, ["keys", "create", "a", "--keys-file", str(path)])
    assert result.exit_code == 2
    assert "rlm-" not in result.output
    assert [(file, file.read_text()) for file in tmp_path.iterdir()] == [(path, "")]


def test_hash_reads_a_key_from_standard_input() -> None:
    assert RUNNER.invoke(app, ["keys", "hash"], input="secret\n").output.strip() == hash_key(b"secret")
    assert RUNNER.invoke(app, ["keys", "hash"], input="\n").exit_code == 2

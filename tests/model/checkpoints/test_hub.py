"""Directories and hub ids. Nothing here reaches the network."""

import os
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from model.checkpoints.hub import find_checkpoint, is_hub_id
from tests.model.checkpoints.gguf.test_file import write_small

SHA = "0123456789abcdef0123456789abcdef01234567"
FIND = """
import sys
from model.checkpoints.hub import find_checkpoint

for line in sys.stdin:
    try:
        print(find_checkpoint(*line.split()))
    except ValueError as error:
        print(error)
"""


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, Any]]:
    """What was asked of the hub; it answers with tmp_path."""
    asked: list[dict[str, Any]] = []

    def snapshot_download(repo_id: str, **options: Any) -> str:
        asked.append({"repo_id": repo_id, **options})
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    return asked


@pytest.mark.parametrize(
    ("model", "expected"),
    [("org/name", True), ("Qwen/Qwen3-30B-A3B", True), ("./name", False), ("../a/b", False), ("/a/b", False),
     ("name", False), ("a/b/c", False), ("org/name:file.gguf", True), ("dir/file.gguf", False),
     ("org/name:Q4/file-00001-of-00002.gguf", True), ("org/name:file.bin", False), ("a/..", False), ("bundled", False)],
)  # fmt: skip
def test_what_is_a_hub_id(model: str, expected: bool) -> None:
    assert is_hub_id(model) is expected


def test_a_directory_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fetched: list[dict[str, Any]]) -> None:
    (tmp_path / "org" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert find_checkpoint("org/name") == Path("org/name")
    assert not fetched


def test_a_repository_is_fetched_at_its_revision(tmp_path: Path, fetched: list[dict[str, Any]]) -> None:
    assert find_checkpoint("org/name", "v2") == tmp_path
    assert (fetched[0]["repo_id"], fetched[0]["revision"]) == ("org/name", "v2")


@pytest.mark.parametrize(
    ("name", "with_weights", "without"),
    [
        ("model-00001-of-00002.safetensors", True, False),
        ("model.safetensors.index.json", True, True),
        ("tokenizer.json", True, True),
        ("chat_template.jinja", True, True),
        ("merges.txt", True, True),
        ("tokenizer.model", True, True),
        ("1_Pooling/config.json", True, True),
        ("pytorch_model.bin", False, False),
        ("modeling_own.py", False, False),
        ("model.gguf", False, False),
        ("onnx/model.json", False, False),
        ("original/consolidated.safetensors", False, False),
        ("consolidated.safetensors", False, False),
    ],
)
def test_only_what_is_read_is_fetched(
    fetched: list[dict[str, Any]], name: str, with_weights: bool, without: bool
) -> None:
    def is_fetched(options: dict[str, Any]) -> bool:
        wanted, unwanted = options["allow_patterns"], options["ignore_patterns"]
        return any(fnmatch(name, pattern) for pattern in wanted) and not any(fnmatch(name, p) for p in unwanted)

    find_checkpoint("org/name")
    find_checkpoint("org/name", weights=False)
    assert [is_fetched(options) for options in fetched] == [with_weights, without]


def test_a_file_of_a_repository_is_fetched_with_all_its_parts(fetched: list[dict[str, Any]], tmp_path: Path) -> None:
    write_small(tmp_path / "model.gguf")
    assert str(find_checkpoint("org/name:model.gguf", "v2")) == str(tmp_path / "model.gguf")
    with pytest.raises(ValueError, match="no file"):
        find_checkpoint("org/name:big-00001-of-00002.gguf")
    assert [options["allow_patterns"] for options in fetched] == [
        ["model.gguf"],
        ["big-00001-of-00002.gguf", "big-00002-of-00002.gguf"],
    ]


def test_a_directory_with_one_gguf_file_is_that_file(tmp_path: Path) -> None:
    write_small(tmp_path / "model.gguf")
    (tmp_path / "mmproj-model.gguf").touch()  # a vision encoder
    assert str(find_checkpoint(str(tmp_path))) == str(tmp_path / "model.gguf")
    write_small(tmp_path / "other.gguf")
    with pytest.raises(ValueError, match=r"several GGUF files: name one of them: model\.gguf, other\.gguf"):
        find_checkpoint(str(tmp_path))
    (tmp_path / "model.safetensors").touch()
    assert find_checkpoint(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("model", ["no-such-directory", "./no/such", "a/b/c"])
def test_what_is_neither_is_refused(model: str) -> None:
    with pytest.raises(ValueError, match=f"no directory {model}"):
        find_checkpoint(model)


def test_a_directory_has_no_revision(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no revision v2"):
        find_checkpoint(str(tmp_path), "v2")


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match=r"no directory org/name.*pip install \"routelm\[hub\]\""):
        find_checkpoint("org/name")


def test_offline_the_cache_is_used_and_what_is_not_there_is_refused_in_one_line(tmp_path: Path) -> None:
    """In a process that is offline, and has one repository in its cache."""
    repository = tmp_path / "hub" / "models--org--name"
    snapshot = repository / "snapshots" / SHA
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(SHA)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    environment.pop("HF_HUB_CACHE", None)
    asked = ["org/name", f"org/name {SHA}", "org/other", "org/name v2"]
    command = [sys.executable, "-c", FIND]
    told = subprocess.run(command, input="\n".join(asked), env=environment, capture_output=True, text=True, check=True)
    *found, other, revision = told.stdout.splitlines()
    assert found == [str(snapshot)] * 2
    assert other.startswith("there is no directory org/other, and the hub did not give")
    assert revision.startswith("there is no directory org/name, and the hub did not give")


def test_the_bundled_model_has_no_revisions() -> None:
    with pytest.raises(ValueError, match="the bundled model has none"):
        find_checkpoint("bundled", "v2")
    assert (find_checkpoint("bundled") / "config.json").is_file()

"""What `routelm inspect` tells, by hand and of real checkpoints."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from model.checkpoints.hub import BUNDLED
from model.checkpoints.safetensors_files import CheckpointError
from model.loading.memory_estimate import gib
from model.loading.quantize_checkpoint import quantize_checkpoint
from model.quantization import SCHEMES
from server.cli import app
from server.settings import Settings
from server.startup import inspect_model as inspect_model_module
from server.startup.backend import prepare_backend
from server.startup.inspect_model import Fit, best_of, inspect_model

GIB = 2**30


@pytest.fixture
def runner() -> CliRunner:
    return CliRunner()


def with_memory(monkeypatch: pytest.MonkeyPatch, size: float) -> None:
    monkeypatch.setattr(inspect_model_module, "available_memory", lambda: int(size))


def test_the_bundled_model() -> None:
    found = inspect_model("bundled", None, length=1000)
    assert (found.family, found.router, found.experts, found.experts_per_token) == ("qwen3_next", "SoftmaxTopK", 16, 2)
    assert list(found.layers.items()) == [
        ("gated delta net", 6), ("attention", 2), ("routed experts with a shared one", 8),
    ]  # fmt: skip
    assert found.max_model_len == 4096
    assert sum(found.stored.values()) < (BUNDLED / "model.safetensors").stat().st_size
    assert found.size.active_parameters < found.size.parameters
    assert [fit.scheme for fit in found.fits][1:] == ["int8", "int4"]
    assert found.fits[0].weight_bytes > found.fits[1].weight_bytes > found.fits[2].weight_bytes
    assert found.fits[0].sequences > 0
    assert found.command == "routelm serve --model bundled"


def test_a_length_beyond_the_context_is_cut() -> None:
    assert inspect_model("bundled", None, length=1_000_000).length == 4096


def test_longer_sequences_are_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    with_memory(monkeypatch, GIB)
    short, long = (inspect_model("bundled", None, length).fits[0].sequences for length in (100, 4000))
    assert short > long > 0


def test_what_is_recommended_can_be_served(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command's cache holds so many sequences of that length, and the engine takes its budget."""
    with_memory(monkeypatch, inspect_model_module.OVERHEAD_BYTES + 60 * 2**20)
    found = inspect_model("bundled", None, length=4096)
    assert found.command is not None
    words = found.command.split()
    given = dict(zip(words[2::2], words[3::2], strict=True))
    at_once = int(given["--max-num-seqs"])
    cache = inspect_model_module._cache_bytes(found.size, at_once, 4096)
    service = prepare_backend(Settings(max_num_seqs=at_once, cache_bytes=cache, threads=1))
    assert callable(service)


@pytest.mark.parametrize(
    ("sequences", "expected"),
    [((100, 200, 300), "wide"), ((7, 8, 300), "middle"), ((0, 1, 5), "narrow"), ((0, 0, 0), None)],
)
def test_the_widest_with_room_is_recommended(sequences: tuple[int, int, int], expected: str | None) -> None:
    fits = [Fit(name, 1, count) for name, count in zip(("wide", "middle", "narrow"), sequences, strict=True)]
    best = best_of(fits)
    assert (best and best.scheme) == expected


def test_where_nothing_fits_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    with_memory(monkeypatch, 2**20)
    found = inspect_model("bundled", None, length=100)
    assert found.command is None
    assert found.recommendation.startswith("This model does not fit here: as int4, with one sequence of 100 tokens")
    assert "1.0 MiB are free" in found.recommendation


def test_of_a_hub_id_the_weights_are_not_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shutil.copyfile(BUNDLED / "config.json", tmp_path / "config.json")
    asked: list[list[str]] = []

    def snapshot_download(repo_id: str, *, allow_patterns: list[str], **options: object) -> str:
        asked.append(allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    found = inspect_model("org/name", "v2", length=100)
    assert not any("safetensors" in pattern and "json" not in pattern for pattern in asked[0])
    assert found.stored == {}
    assert found.command == "routelm serve --model org/name --revision v2"


def test_what_was_quantized_has_one_form(tmp_path: Path) -> None:
    quantize_checkpoint(BUNDLED, tmp_path / "small", SCHEMES["int4"])
    found = inspect_model(str(tmp_path / "small"), None, length=100)
    assert [fit.scheme for fit in found.fits] == ["int4"]
    assert found.stored.keys() == {"uint8", "int8", "bfloat16", "float32"}
    assert found.command == f"routelm serve --model {tmp_path / 'small'}"


def test_a_checkpoint_that_could_not_be_loaded_is_refused(tmp_path: Path) -> None:
    shutil.copytree(BUNDLED, tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read"):
        inspect_model(str(tmp_path / "model"), None, length=100)


def test_the_command_prints_a_table_or_json(runner: CliRunner) -> None:
    table = runner.invoke(app, ["inspect", "bundled", "--length", "100"])
    assert table.exit_code == 0
    assert "SoftmaxTopK, 2 of 16 experts for each token" in table.output
    assert "17,896,368, of which 1,966,080 embed" in table.output
    assert "6,886,320, of which 1,966,080 embed" in table.output
    assert all(
        word in table.output for word in ("qwen3_next", "gated delta net", "int4", "100 tokens", "routelm serve")
    )
    found = json.loads(runner.invoke(app, ["inspect", "bundled", "--length", "100", "--json"]).output)
    assert (found["family"], found["length"], len(found["fits"])) == ("qwen3_next", 100, 3)


def test_a_broken_model_is_told_in_one_line(runner: CliRunner, tmp_path: Path) -> None:
    result = runner.invoke(app, ["inspect", str(tmp_path)])
    assert result.exit_code == 2
    assert result.output.splitlines() == [f"{tmp_path} is not a checkpoint: it has no config.json"]


def test_sizes_are_read_by_people() -> None:
    assert (gib(3 * GIB // 2), gib(2**20)) == ("1.50 GiB", "1.0 MiB")

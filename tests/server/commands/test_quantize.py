"""`routelm quantize` from the command line."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from server.commands.quantize import quantize

TINY = {
    "model_type": "llama", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1,
    "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 32, "rms_norm_eps": 1e-6,
    "max_position_embeddings": 128, "tie_word_embeddings": False,
}  # fmt: skip


@pytest.fixture
def source(tmp_path: Path) -> Path:
    from model.checkpoints.safetensors_files import save_weights
    from model.families import family_of
    from model.network import CausalLM

    family = family_of(TINY)
    network = CausalLM(family.config_from_hf(TINY))
    save_weights(network, family.rules(network.config), tmp_path / "source")
    (tmp_path / "source" / "config.json").write_text(json.dumps(TINY))
    return tmp_path / "source"


def run(*arguments: str) -> tuple[int, str]:
    app = typer.Typer()
    app.command()(quantize)
    found = CliRunner().invoke(app, arguments)
    return found.exit_code, found.output


def test_it_writes_a_checkpoint_and_says_how_large(source: Path, tmp_path: Path) -> None:
    code, output = run(str(source), str(tmp_path / "target"), "--scheme", "int8")
    assert code == 0, output
    assert "GiB of weights" in output
    assert json.loads((tmp_path / "target" / "config.json").read_text())["quantization_config"]["scheme"] == "int8"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [(["--scheme", "int2"], "int2"), (["--dtype", "float8"], "float8")],
)
def test_what_is_not_possible_is_told_in_one_line(
    source: Path, tmp_path: Path, arguments: list[str], told: str
) -> None:
    code, output = run(str(source), str(tmp_path / "target"), *arguments)
    assert code == 2
    assert told in output
    assert "Traceback" not in output
    assert not (tmp_path / "target").exists()

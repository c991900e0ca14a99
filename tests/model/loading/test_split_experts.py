"""A dense checkpoint as experts: with all of them it equals the dense one, here and in transformers."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from model.checkpoints.reader import CheckpointError
from model.loading import split_experts as module
from model.loading.load import load_network
from model.loading.split_experts import balanced_clusters, split_experts
from model.network import CausalLM
from server.cli import app
from tests.model.batches import whole_batch
from tests.model.families.checkpoints import write_checkpoint

IDS = torch.randint(0, 160, (200,), generator=torch.Generator().manual_seed(0)).tolist()


@torch.inference_mode()
def logits(network: CausalLM) -> Tensor:
    found: Tensor = network.logits(network(whole_batch(network, torch.tensor(IDS[:40])))[0])
    return found


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_all_experts_equal_the_dense_model(family: str, tmp_path: Path) -> None:
    pair = write_checkpoint(family, tmp_path / "dense", **({"sliding_window": None} if family == "mistral" else {}))
    experts = split_experts(tmp_path / "dense", tmp_path / "moe", IDS, 4, dtype=torch.float32)
    assert experts == (4 if family == "qwen3" else 3)
    expected = pair.logits(torch.tensor(IDS[:40])[None])[0]
    torch.testing.assert_close(logits(load_network(tmp_path / "moe", torch.float32)), expected, atol=2e-3, rtol=0)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "moe", dtype=torch.float32)
    with torch.no_grad():
        found = theirs(torch.tensor(IDS[:40])[None]).logits[0]
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=0)


def test_fewer_experts_come_nearer_the_more_there_are(tmp_path: Path) -> None:
    write_checkpoint("llama", tmp_path / "dense")
    experts = split_experts(tmp_path / "dense", tmp_path / "moe", IDS, 8, dtype=torch.float32)
    expected = logits(load_network(tmp_path / "dense", torch.float32))
    errors = [
        float((logits(load_network(tmp_path / "moe", torch.float32, experts_per_token=k)) - expected).norm())
        for k in (1, 4, experts)
    ]
    assert errors[0] > errors[1] > errors[2]


def test_a_router_that_is_not_tiny_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: then the weights of the experts differ, and the sum is another."""
    write_checkpoint("llama", tmp_path / "dense")
    monkeypatch.setattr("model.loading.split_experts.LOGIT_SIZE", 1.0)
    split_experts(tmp_path / "dense", tmp_path / "moe", IDS, 4, dtype=torch.float32)
    difference = logits(load_network(tmp_path / "moe", torch.float32)) - logits(load_network(tmp_path / "dense"))
    assert difference.abs().max() > 2e-3


def test_neurons_that_fire_together_are_one_cluster() -> None:
    generator = torch.Generator().manual_seed(0)
    groups = torch.arange(32) % 4
    patterns = torch.rand(4, 100, generator=generator)
    labels = balanced_clusters(patterns[groups] + 0.05 * torch.rand(32, 100, generator=generator), 4)
    assert torch.equal(labels.bincount(), torch.full((4,), 8))
    assert all(len(set(labels[groups == group].tolist())) == 1 for group in range(4))


@pytest.mark.parametrize(
    ("case", "parts", "k", "message"),
    [
        ("granite", 4, None, "model_type 'granite' cannot be split; these can: llama"),
        ("mistral_window", 4, None, "layers with a window"),
        ("llama", 7, None, "7 parts of a feed-forward of 96 neurons: give a divisor"),
        ("llama", 4, 4, "4 experts per token of 3"),
    ],
)
def test_what_cannot_be_split_is_refused_before_weights_are_read(
    case: str, parts: int, k: int | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_checkpoint(case, tmp_path / "dense")
    monkeypatch.setattr(module, "load_network", lambda *_, **__: pytest.fail("weights were read"))
    with pytest.raises((CheckpointError, ValueError), match=message):
        split_experts(tmp_path / "dense", tmp_path / "moe", IDS, parts, k)
    assert not (tmp_path / "moe").exists()


def test_the_command_tells_what_fewer_experts_cost(tmp_path: Path) -> None:
    from tests.model.text.kinds import KINDS

    write_checkpoint("llama", tmp_path / "dense", vocab_size=1024)
    (tmp_path / "dense" / "tokenizer.json").write_text(next(iter(KINDS.values()))().to_str())
    (tmp_path / "text.txt").write_text("a b c d e f g h " * 100)
    arguments = [str(tmp_path / "dense"), str(tmp_path / "moe"), "--experts", "4", "--text", str(tmp_path / "text.txt")]
    found = CliRunner().invoke(app, ["split-experts", *arguments])
    assert found.exit_code == 0, found.output
    assert [line.split(",")[0].strip() for line in found.output.splitlines()[1:]] == [
        "dense", "1 of 3", "2 of 3", "3 of 3",
    ]  # fmt: skip
    assert json.loads((tmp_path / "moe" / "config.json").read_text())["model_type"] == "qwen2_moe"

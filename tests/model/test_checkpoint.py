"""Checkpoints: what is saved loads again, in both directions of every rule; what is broken is named."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from model.checkpoint import CheckpointError, Concat, PerHead, Same, Stack, load_weights, save_weights
from model.config import hybrid_config
from model.families import FAMILIES, family_of
from model.loading import load_network
from model.network import CausalLM

TINY = hybrid_config(
    hidden_size=32, num_layers=4, num_heads=2, num_kv_heads=1, head_dim=16, num_experts=2, expert_width=16,
    shared_width=16, vocab_size=64,
)  # fmt: skip


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A tiny random model on disk."""
    torch.manual_seed(0)
    family, network = FAMILIES["qwen3_next"], CausalLM(TINY)
    (tmp_path / "config.json").write_text(json.dumps(family.config_to_hf(TINY)))
    save_weights(network, family.rules(TINY), tmp_path)
    return tmp_path


def edit(directory: Path, name: str, tensor: torch.Tensor | None) -> None:
    """Replace a tensor of the checkpoint, or take it out."""
    tensors = load_file(directory / "model.safetensors")
    del tensors[name]
    if tensor is not None:
        tensors[name] = tensor
    save_file(tensors, directory / "model.safetensors")


def test_what_is_saved_loads_again(checkpoint: Path) -> None:
    network = CausalLM(TINY)
    rules = FAMILIES["qwen3_next"].rules(TINY)
    load_weights(network, rules, checkpoint)
    save_weights(network, rules, checkpoint / "again")
    before, after = (load_file(path / "model.safetensors") for path in (checkpoint, checkpoint / "again"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_config_survives_both_directions() -> None:
    family = FAMILIES["qwen3_next"]
    assert family.config_from_hf(family.config_to_hf(TINY)) == TINY


@given(heads=st.integers(1, 4), sizes=st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_merges_undo_themselves(heads: int, sizes: list[int]) -> None:
    layout = PerHead(((heads, tuple(sizes)), (1, (3,))))
    tensors = [torch.randn(heads * sum(sizes), 2), torch.randn(3, 2)]
    for merge, parts in (
        (layout, tensors),
        (Concat((heads * sum(sizes), 3)), tensors),
        (Stack(2, (2, 1)), [torch.randn(rows, 4) for rows in (2, 1, 2, 1)]),
        (Same((6, 1, 2), (6, 2)), [torch.randn(6, 1, 2)]),
    ):
        again = merge.split(merge.join(parts))
        assert all(torch.equal(a, b) for a, b in zip(parts, again, strict=True))


def test_heads_are_gathered_by_part() -> None:
    stored = torch.tensor([[10.0], [11], [20], [21]])  # head 1: parts 10, 11; head 2: parts 20, 21
    assert PerHead(((2, (1, 1)),)).join([stored]).flatten().tolist() == [10, 20, 11, 21]


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("model.norm.weight", None, "model.norm.weight is missing"),
        ("model.norm.weight", torch.zeros(31), r"model.norm.weight has shape \(31,\)"),
        ("model.layers.0.linear_attn.in_proj_ba.weight", torch.zeros(3, 32), "in_proj_qkvz.weight has an unexpected"),
    ],
)
def test_a_broken_tensor_is_named(checkpoint: Path, name: str, tensor: torch.Tensor | None, message: str) -> None:
    edit(checkpoint, name, tensor)
    with pytest.raises(CheckpointError, match=message):
        load_network(checkpoint, torch.float32)


def test_an_unexpected_tensor_is_named(checkpoint: Path) -> None:
    tensors = load_file(checkpoint / "model.safetensors")
    save_file(tensors | {"model.extra": torch.zeros(1)}, checkpoint / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.extra"):
        load_network(checkpoint, torch.float32)


def test_a_truncated_file_is_named(checkpoint: Path) -> None:
    path = checkpoint / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read"):
        load_network(checkpoint, torch.float32)


def test_a_missing_shard_is_named(checkpoint: Path) -> None:
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="model-00001-of-00002"):
        load_network(checkpoint, torch.float32)


def test_pickles_are_not_loaded(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").rename(checkpoint / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="other weight formats are not loaded"):
        load_network(checkpoint, torch.float32)


def test_an_unknown_family_is_refused_in_one_sentence() -> None:
    with pytest.raises(CheckpointError, match=r"'mamba3' is not supported; supported: qwen3_next"):
        family_of({"model_type": "mamba3"})


def test_a_directory_without_config_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        load_network(tmp_path)

"""Qwen3.5 as it is published: a wrapper's config, prefixed names, stacked experts, and tensors of no use to text."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.checkpoints.safetensors_files import CheckpointError
from model.loading.load import load_network
from tests.model.batches import whole_batch
from tests.model.families.checkpoints import Pair, write_checkpoint

IDS_L = torch.arange(40) * 7 % 160


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return write_checkpoint("qwen3_5_moe_text", tmp_path_factory.mktemp("text"))


def stacked(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """All experts of a layer in one tensor each."""
    found = {name: tensor for name, tensor in tensors.items() if ".experts." not in name}
    for layer in {name.partition(".experts.")[0] for name in tensors.keys() - found.keys()}:

        def all_experts(kind: str, layer: str = layer) -> Tensor:
            count = sum(name.startswith(f"{layer}.experts.") and name.endswith(f".{kind}.weight") for name in tensors)
            return torch.stack([tensors[f"{layer}.experts.{expert}.{kind}.weight"] for expert in range(count)])

        found[f"{layer}.experts.gate_up_proj"] = torch.cat([all_experts("gate_proj"), all_experts("up_proj")], dim=1)
        found[f"{layer}.experts.down_proj"] = all_experts("down_proj")
    return found


def prefixed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.replace("model.", "model.language_model.", 1): tensor for name, tensor in tensors.items()}


def published(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    others = {"model.visual.patch_embed.proj.bias": torch.ones(3), "mtp.fc.weight": torch.ones(3, 3)}
    return prefixed(stacked(tensors)) | others


def rewritten(pair: Pair, change: Callable[[dict[str, Tensor]], dict[str, Tensor]], directory: Path) -> Path:
    """The same weights stored in another way, under a wrapper's config.json."""
    text_config = json.loads((pair.directory / "config.json").read_text())
    wrapper = {"model_type": "qwen3_5_moe", "text_config": text_config, "vision_config": {"depth": 1}}
    (directory / "config.json").write_text(json.dumps(wrapper))
    save_file(change(load_file(pair.directory / "model.safetensors")), directory / "model.safetensors")
    return directory


@torch.inference_mode()
@pytest.mark.parametrize("change", [dict, stacked, prefixed, published])
def test_all_ways_of_storing_give_one_network(
    text: Pair, tmp_path: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]
) -> None:
    network = load_network(rewritten(text, change, tmp_path), torch.float32)
    expected = load_network(text.directory, torch.float32)
    hidden, _ = network(whole_batch(network, IDS_L))
    assert torch.equal(hidden, expected(whole_batch(expected, IDS_L))[0])


def test_what_is_missing_is_named_as_the_checkpoint_would(text: Pair, tmp_path: Path) -> None:
    def damaged(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        found = published(tensors)
        del found["model.language_model.layers.1.mlp.experts.down_proj"]
        return found

    with pytest.raises(CheckpointError, match=r"model\.language_model\.layers\.1\.mlp\.experts\.down_proj is missing"):
        load_network(rewritten(text, damaged, tmp_path), torch.float32)


def test_a_tensor_that_no_one_knows_is_refused(text: Pair, tmp_path: Path) -> None:
    """Negative control: only what is declared is passed over."""
    with pytest.raises(CheckpointError, match=r"model does not: model\.audio\.weight"):
        load_network(rewritten(text, lambda t: published(t) | {"model.audio.weight": torch.ones(1)}, tmp_path))

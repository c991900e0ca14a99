"""DeepSeek's families beyond parity: what is left out, what is refused, a published scale."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from model.checkpoints.safetensors_files import CheckpointError, read_config
from model.config import LatentAttentionConfig, YarnScaling
from model.families import deepseek_v2, deepseek_v3
from model.families.deepseek_v2 import PartOfHeads
from model.loading.load import load_network
from tests.model.families.checkpoints import write_checkpoint


def add_tensor(directory: Path, name: str) -> None:
    path = directory / "model.safetensors"
    save_file(load_file(path) | {name: torch.ones(3)}, path)


@pytest.mark.parametrize(
    ("settings", "number"),
    [
        ({}, 1),
        ({"num_nextn_predict_layers": None}, 1),
        ({"num_nextn_predict_layers": 1}, 1),
        ({"num_nextn_predict_layers": 2}, 2),
    ],
)
def test_layers_for_further_tokens_are_not_loaded(tmp_path: Path, settings: dict[str, Any], number: int) -> None:
    write_checkpoint("deepseek_v3", tmp_path)
    hf = read_config(tmp_path)
    depth = hf["num_hidden_layers"]
    (tmp_path / "config.json").write_text(json.dumps(hf | settings))
    for index in range(depth, depth + number):
        add_tensor(tmp_path, f"model.layers.{index}.eh_proj.weight")
    load_network(tmp_path, torch.float32)
    add_tensor(tmp_path, f"model.layers.{index + 1}.eh_proj.weight")  # negative control: one layer too many
    with pytest.raises(CheckpointError, match=rf"model\.layers\.{index + 1}\.eh_proj\.weight"):
        load_network(tmp_path, torch.float32)


@pytest.mark.parametrize(
    "change",
    [{"attention_bias": True}, {"rope_interleave": False}, {"scoring_func": "softmax"}, {"topk_method": "greedy"}],
)
def test_what_is_not_supported_is_named(change: dict[str, Any], tmp_path: Path) -> None:
    write_checkpoint("deepseek_v3", tmp_path)
    with pytest.raises(CheckpointError, match=f"{next(iter(change))} is"):
        deepseek_v3.config_from_hf(read_config(tmp_path) | change)


def test_an_unknown_choice_of_experts_is_named(tmp_path: Path) -> None:
    write_checkpoint("deepseek_v2", tmp_path)
    with pytest.raises(CheckpointError, match="topk_method 'best' is not known"):
        deepseek_v2.config_from_hf(read_config(tmp_path) | {"topk_method": "best"})


def test_stretched_positions_as_older_configs_write_them(tmp_path: Path) -> None:
    """DeepSeek-V2-Lite's own settings: the stretch is in the scale of the scores and not in the rotation."""
    write_checkpoint("deepseek_v2", tmp_path)
    rope = {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096}
    rope |= {"mscale": 0.707, "mscale_all_dim": 0.707}
    heads = {"qk_nope_head_dim": 128, "qk_rope_head_dim": 64}
    hf = read_config(tmp_path) | heads | {"rope_scaling": rope}
    mixer = deepseek_v2.config_from_hf(hf).layers[0].mixer
    assert isinstance(mixer, LatentAttentionConfig)
    assert isinstance(mixer.rotary.scaling, YarnScaling)
    assert mixer.rotary.scaling.attention_factor == 1
    assert mixer.scale == pytest.approx(1.2608 * 1.2608 / 192**0.5, rel=1e-4)


def test_both_parts_of_a_tensor_add_up_to_it() -> None:
    tensor = torch.randn(3 * (4 + 6), 5)
    key, value = PartOfHeads(3, 0, 4, 6, transposed=True), PartOfHeads(3, 4, 6, 0)
    parts = [key.join([tensor]), value.join([tensor])]
    assert [part.shape for part in parts] == [(3, 5, 4), (3, 6, 5)]
    assert torch.equal(key.split(parts[0])[0] + value.split(parts[1])[0], tensor)

"""Adapters that cannot be served are refused in one sentence that says why."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from model.checkpoints.reader import CheckpointError
from model.loading.lora.attach import MAX_ADAPTERS
from tests.model.families.checkpoints import write_checkpoint
from tests.model.loading.lora.adapters import matrices, with_adapters, write_adapter

Q = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint("llama", tmp_path_factory.mktemp("llama") / "base").directory


@pytest.fixture
def adapter(checkpoint: Path, tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "mine", matrices(checkpoint))


def refused(checkpoint: Path, adapter: Path, *sentence: str) -> None:
    with pytest.raises(CheckpointError) as refusal:
        with_adapters(checkpoint, [adapter])
    for part in ("LoRA adapter mine: ", *sentence):
        assert part in str(refusal.value)


def edit_config(adapter: Path, **changes: Any) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_tensors(adapter: Path, changes: dict[str, torch.Tensor | None]) -> None:
    path = adapter / "adapter_model.safetensors"
    tensors: dict[str, Any] = load_file(path) | changes
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("use_dora", True),
        ("bias", "all"),
        ("lora_bias", True),
        ("modules_to_save", ["lm_head"]),
        ("fan_in_fan_out", True),
        ("layer_replication", [[0, 2]]),
        ("trainable_token_indices", [1, 2]),
        ("alora_invocation_tokens", [3]),
        ("init_lora_weights", "pissa_niter_16"),
        ("init_lora_weights", "OLoRA"),
        ("init_lora_weights", "loftq"),
    ],
)
def test_what_is_not_computed(checkpoint: Path, adapter: Path, name: str, value: Any) -> None:
    edit_config(adapter, **{name: value})
    refused(checkpoint, adapter, f"{name} is {value!r}, which is not served")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
        ({"r": 257}, "ranks from 1 to 256 are served"),
        ({"r": "4"}, "r is '4'"),
        ({"lora_alpha": None}, "lora_alpha is None: a number is expected"),
        ({"rank_pattern": {"q_proj": 0}}, "rank_pattern['q_proj'] is 0"),
        ({"rank_pattern": {"(": 2}}, "no regular expression"),
        (
            {"alpha_pattern": {"(?i)q_proj": 2}},
            "no regular expression",
        ),  # flags are not at the beginning of what PEFT matches
        ({"target_parameters": "all"}, "target_parameters is no list"),
        ({"target_parameters": ["mlp.experts.gate_up_proj_bias"]}, "has 'mlp.experts.gate_up_proj_bias': only the"),
        ({"r": 8}, "has shape [4, 96] where this model and adapter_config.json ask for [8, 96]"),
    ],
)
def test_configs_that_do_not_fit(checkpoint: Path, adapter: Path, changes: dict[str, Any], sentence: str) -> None:
    edit_config(adapter, **changes)
    refused(checkpoint, adapter, sentence)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({f"{Q}.lora_A.weight": None}, f"lacks the tensor {Q}.lora_A.weight"),
        ({f"{Q}.lora_A.weight": torch.zeros(4, 32)}, "asks for"),
        ({f"{Q}.lora_A.weight": torch.full((4, 64), torch.nan)}, "not finite"),
        ({f"{Q}.lora_A.weight": torch.zeros(4, 64, dtype=torch.int8)}, "has type int8"),
        ({f"{Q}.lora_magnitude_vector": torch.zeros(64)}, "not changed embeddings, biases, magnitudes"),
        ({"base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight": torch.zeros(4, 64)}, "made for tiny"),
        ({"base_model.model.model.layers.0.mlp.fc1.lora_A.weight": torch.zeros(4, 64)}, "does not have"),
    ],
)
def test_tensors_that_do_not_fit(
    checkpoint: Path, adapter: Path, changes: dict[str, torch.Tensor | None], sentence: str
) -> None:
    edit_tensors(adapter, changes)
    refused(checkpoint, adapter, sentence.replace("asks for", "ask for"))


@pytest.mark.parametrize("target", ["lm_head", "model.layers.0.input_layernorm"])
def test_what_has_no_adapters(checkpoint: Path, adapter: Path, target: str) -> None:
    width = 64
    outputs = load_file(checkpoint / "model.safetensors")["model.embed_tokens.weight"].shape[0]
    name = f"base_model.model.{target}"
    edit_tensors(
        adapter, {f"{name}.lora_A.weight": torch.zeros(4, width), f"{name}.lora_B.weight": torch.zeros(outputs, 4)}
    )
    refused(checkpoint, adapter, f"the adapter changes {target}: adapters of this matrix are not served")


def test_other_files(checkpoint: Path, adapter: Path) -> None:
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    refused(checkpoint, adapter, "has no adapter_model.safetensors")
    (adapter / "adapter_config.json").unlink()
    refused(checkpoint, adapter, "it has no adapter_config.json")


def test_too_many(checkpoint: Path, adapter: Path) -> None:
    many = [adapter.with_name(f"a{i}") for i in range(MAX_ADAPTERS + 1)]
    with pytest.raises(CheckpointError, match=f"{MAX_ADAPTERS + 1} LoRA adapters are given: at most {MAX_ADAPTERS}"):
        with_adapters(checkpoint, many)

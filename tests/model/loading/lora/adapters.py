"""Random LoRA adapters in PEFT's format, and the checkpoints that they are merged into."""

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.checkpoints.safetensors_files import read_config
from model.loading.load import describe, load_network
from model.loading.lora.attach import attach_adapters
from model.network import CausalLM

# matrices of the layers, without embeddings, routers, and those of convolutions and of latent attention's heads
CHANGED = re.compile(r"layers\.\d+\..*(?<!conv)(?<!gate)(?<!router\.layer)(?<!conv1d)(?<!kv_b_proj)\.weight")


def matrices(checkpoint: Path, changed: re.Pattern[str] = CHANGED) -> dict[str, Tensor]:
    """The matrices of a checkpoint that an adapter changes, by module name."""
    tensors = load_file(checkpoint / "model.safetensors")
    return {
        name.removesuffix(".weight"): tensor
        for name, tensor in tensors.items()
        if tensor.dim() == 2 and changed.fullmatch(name.removeprefix("model.").removeprefix("backbone."))
    }


def write_adapter(
    directory: Path, changed: dict[str, Tensor], *, rank: int = 4, seed: int = 0, scale: float = 0.3, **config: Any
) -> Path:
    """An adapter of these matrices. `scale`: how large B A is, compared with the matrices."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, weight in changed.items():
        outputs, inputs = weight.shape
        prefix = f"base_model.model.{name}"
        A, B = (torch.randn(shape, generator=generator) for shape in ((rank, inputs), (outputs, rank)))
        tensors[f"{prefix}.lora_A.weight"] = A
        tensors[f"{prefix}.lora_B.weight"] = B * weight.std() * scale / rank**0.5
    directory.mkdir(parents=True)
    save_file(tensors, directory / "adapter_model.safetensors")
    stored = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "bias": "none", "base_model_name_or_path": "tiny"}
    (directory / "adapter_config.json").write_text(json.dumps(stored | config))
    return directory


def merged(checkpoint: Path, adapter: Path, directory: Path) -> Path:
    """A copy of a checkpoint with an adapter of scaling 1 added to its weights."""
    shutil.copytree(checkpoint, directory)
    weights, changes = (
        load_file(path) for path in (checkpoint / "model.safetensors", adapter / "adapter_model.safetensors")
    )
    for name in changes:
        if name.endswith(".lora_A.weight"):
            target = name.removeprefix("base_model.model.").replace(".lora_A", "")
            weights[target] += changes[name.replace("lora_A", "lora_B")] @ changes[name]
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def with_adapters(
    checkpoint: Path, adapters: Sequence[Path], dtype: torch.dtype = torch.float32, **given: Any
) -> CausalLM:
    """The frozen network with adapters, which are named after their directories."""
    assert read_config(checkpoint)
    network = load_network(checkpoint, dtype, **given)
    attach_adapters(network, describe(checkpoint, dtype), {path.name: path for path in adapters})
    return network

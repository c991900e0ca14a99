"""A trained network, or the mean of several, as a checkpoint directory that we and other engines load."""

import json
import shutil
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from model.checkpoints.safetensors_files import read_config, save_weights
from model.families import qwen3_next
from model.loading.load import load_network
from model.loading.quality import QUALITY_NAME
from model.loading.quantize_checkpoint import copy_companions
from model.loading.routing_baseline import BASELINE_NAME
from model.network import CausalLM, matrices

SPECIAL_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")
# Sampling as measured on validation prompts of the bundled model (docs/training.md): small models repeat themselves.
GENERATION = {
    "eos_token_id": [2, 0],  # <|im_end|>, <|endoftext|>
    "pad_token_id": 0,
    "temperature": 0.3,
    "min_p": 0.1,
    "repetition_penalty": 1.1,
    "plain_text": {"temperature": 0.6, "repetition_penalty": 1.2},
}


def export(network: CausalLM, tokenizer_dir: Path, directory: Path) -> Path:
    """Write config, weights (matrices in bfloat16, the rest in float32), tokenizer and generation settings."""
    _write_network(network, {"eos_token_id": 2, "pad_token_id": 0}, directory)
    (directory / "generation_config.json").write_text(json.dumps(GENERATION, indent=2) + "\n", encoding="utf-8")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if (tokenizer_dir / name) != directory / name:
            shutil.copyfile(tokenizer_dir / name, directory / name)
    return directory


def _write_network(network: CausalLM, special_tokens: Mapping[str, Any], directory: Path) -> None:
    """Write config and weights. `special_tokens` are entries of config.json."""
    directory.mkdir(parents=True, exist_ok=True)
    hf_config = qwen3_next.config_to_hf(network.config) | {"dtype": "bfloat16"} | dict(special_tokens)
    (directory / "config.json").write_text(json.dumps(hf_config, indent=2) + "\n", encoding="utf-8")
    narrow = {f"{name}.weight": torch.bfloat16 for name, _ in matrices(network)}
    save_weights(network, qwen3_next.rules(network.config), directory, narrow)


@torch.no_grad()
def average(models: Sequence[Path], out: Path) -> Path:
    """Write the mean of finished models of one network, such as `<run>/model`, as a checkpoint directory.

    A model that stands twice counts twice. They must have a common ancestor: the mean of strangers is noise. Tokenizer,
    templates and generation settings are those of the first; its measured quality is not that of the mean.
    ValueError where there are fewer than two, their networks differ, or `out` holds something else than a model.
    """
    if out.exists() and any(out.iterdir()) and not (out / "config.json").exists():
        raise ValueError(f"{out.absolute()} holds other files than those of a model: name a new directory")
    if len(models) < 2:
        raise ValueError("a mean takes two models or more")
    mean, *others = (load_network(path, torch.float32, freeze=False) for path in models)
    for path, other in zip(models[1:], others, strict=True):
        if other.config != mean.config:
            raise ValueError(f"{path} holds another network than {models[0]}")
    for tensor, *of_others in zip(*(chain(n.parameters(), n.buffers()) for n in (mean, *others)), strict=True):
        if tensor.is_floating_point():
            tensor.copy_(torch.stack([tensor, *of_others]).mean(0))
    first = read_config(models[0])
    _write_network(mean, {key: first[key] for key in SPECIAL_TOKENS if key in first}, out)
    copy_companions(models[0], out, without=(QUALITY_NAME, BASELINE_NAME))
    return out

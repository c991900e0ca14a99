"""Checkpoints of public shapes with random weights: what speed and memory depend on, without a download.

    python -m benchmarks.checkpoints granite-3.0-1b-a400m DIRECTORY

The configs say what the published config.json files say; tensors have the names and types of the published ones. The
tokenizer is the bundled one, filled up to the vocabulary with tokens that no text becomes: it reads any text and can
write any token.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.checkpoints.hub import BUNDLED
from model.checkpoints.safetensors_files import named_tensors
from model.loading.load import describe
from model.loading.quantize_checkpoint import write_shards

STD = 0.02

SHAPES: dict[str, dict[str, Any]] = {
    "granite-3.0-1b-a400m": {
        "architectures": ["GraniteMoeForCausalLM"],
        "model_type": "granitemoe", "vocab_size": 49155, "hidden_size": 1024, "intermediate_size": 512,
        "num_hidden_layers": 24, "num_attention_heads": 16, "num_key_value_heads": 8, "num_local_experts": 32,
        "num_experts_per_tok": 8, "max_position_embeddings": 4096, "rms_norm_eps": 1e-6, "rope_theta": 10000,
        "embedding_multiplier": 12.0, "attention_multiplier": 0.015625, "residual_multiplier": 0.22,
        "logits_scaling": 6.0, "tie_word_embeddings": True,
    },
    "olmoe-1b-7b": {
        "architectures": ["OlmoeForCausalLM"],
        "model_type": "olmoe", "vocab_size": 50304, "hidden_size": 2048, "intermediate_size": 1024,
        "num_hidden_layers": 16, "num_attention_heads": 16, "num_key_value_heads": 16, "num_experts": 64,
        "num_experts_per_tok": 8, "norm_topk_prob": False, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "tie_word_embeddings": False,
    },
    "tiny-qwen3-moe": {
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe", "vocab_size": 32000, "hidden_size": 512, "intermediate_size": 1024,
        "num_hidden_layers": 8, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 64, "num_experts": 16,
        "num_experts_per_tok": 4, "moe_intermediate_size": 256, "norm_topk_prob": True,
        "max_position_embeddings": 4096, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": True,
    },
}  # fmt: skip


def write_checkpoint(shape: str, directory: Path, seed: int = 0) -> None:
    """Config, weights in bfloat16 and tokenizer. Only one matrix at a time is in memory, and the shard it goes to."""
    directory.mkdir(parents=True, exist_ok=True)
    config = SHAPES[shape] | {"dtype": "bfloat16", "hidden_act": "silu", "eos_token_id": 0}
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    write_shards(directory, _tensors(directory, torch.Generator().manual_seed(seed)))
    _write_tokenizer(directory, config["vocab_size"])


def _tensors(directory: Path, generator: torch.Generator) -> Iterator[tuple[str, Tensor]]:
    described = describe(directory, torch.bfloat16)
    parameters = named_tensors(described.network)
    for rule in described.family.rules(described.network.config):
        made = torch.ones(parameters[rule.target].shape, dtype=torch.bfloat16)
        if made.dim() > 1:
            made.normal_(0, STD, generator=generator)
        yield from zip(rule.sources, rule.merge.split(made), strict=True)


def _write_tokenizer(directory: Path, vocab_size: int) -> None:
    tokenizer = json.loads((BUNDLED / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    taken = max(max(vocabulary.values()), *(token["id"] for token in tokenizer["added_tokens"])) + 1
    vocabulary |= {f"Ġfiller{number}": number for number in range(taken, vocab_size)}
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    settings = (BUNDLED / "tokenizer_config.json").read_text(encoding="utf-8")
    (directory / "tokenizer_config.json").write_text(settings, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=sorted(SHAPES))
    parser.add_argument("directory", type=Path)
    arguments = parser.parse_args()
    write_checkpoint(arguments.shape, arguments.directory)


if __name__ == "__main__":
    main()

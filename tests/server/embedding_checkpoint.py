"""A tiny random checkpoint in the form of Qwen3-Embedding, and its embeddings as transformers computes them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers, processors
from torch import Tensor
from transformers import Qwen3Config, Qwen3Model

END = "<|endoftext|>"
PROMPTS = {"query": "Instruct: find it\nQuery:", "document": ""}
CONFIG = {
    "vocab_size": 257, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 512, "tie_word_embeddings": False,
    "eos_token_id": 256,
}  # fmt: skip


def write_embedding_checkpoint(directory: Path, *, pooling: str = "lasttoken", normalize: bool = True) -> Qwen3Model:
    """The network is stored without a head and without the prefix `model.`, as Qwen3-Embedding is."""
    torch.manual_seed(0)
    network = Qwen3Model(Qwen3Config(**CONFIG)).float().eval()
    for parameter in network.parameters():
        if parameter.dim() > 1:
            parameter.data.mul_(4)
    network.save_pretrained(directory)
    tokenizer().save(str(directory / "tokenizer.json"))
    steps = ["Transformer", "Pooling", *(["Normalize"] if normalize else [])]
    names = ["", "1_Pooling", "2_Normalize"]
    write(
        directory / "modules.json",
        [
            {"idx": number, "name": str(number), "path": names[number], "type": f"sentence_transformers.models.{step}"}
            for number, step in enumerate(steps)
        ],
    )
    modes = {"cls": "cls_token", "mean": "mean_tokens", "lasttoken": "lasttoken"}
    (directory / "1_Pooling").mkdir()
    flags = {f"pooling_mode_{name}": mode == pooling for mode, name in modes.items()}
    write(directory / "1_Pooling" / "config.json", {"word_embedding_dimension": 64, **flags})
    write(directory / "config_sentence_transformers.json", {"prompts": PROMPTS, "default_prompt_name": None})
    return network


def tokenizer() -> tokenizers.Tokenizer:
    """One token per byte; a text ends with END."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = tokenizers.Tokenizer(models.BPE({token: number for number, token in enumerate(alphabet)}, []))
    backend.add_special_tokens([END])
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.TemplateProcessing(single=f"$A {END}", special_tokens=[(END, 256)])
    return backend


def write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content))


@torch.no_grad()
def expected(
    network: Qwen3Model, texts: Sequence[str], pooling: str = "lasttoken", *, normalize: bool = True
) -> Tensor:
    """Tokenize, run, pool, normalize: the steps of sentence-transformers, one text at a time."""
    found = []
    for text in texts:
        hidden_TD = network(torch.tensor([tokenizer().encode(text).ids])).last_hidden_state[0]
        pooled = {"lasttoken": hidden_TD[-1], "cls": hidden_TD[0], "mean": hidden_TD.mean(0)}
        found.append(pooled[pooling])
    vectors = torch.stack(found)
    return torch.nn.functional.normalize(vectors, dim=-1) if normalize else vectors

"""The tokenizer of a GGUF file as the tokenizer.json and tokenizer_config.json of the checkpoint it was made from.

Two kinds are known: byte-level BPE ("gpt2"), with the pre-tokenizers below, and SentencePiece's BPE ("llama"), where
the merges follow from the scores of the tokens.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from model.checkpoints.reader import CheckpointError
from model.text.conversion import bpe, patterns
from model.text.conversion.bpe import Json
from model.text.conversion.sentencepiece import CONTROL, NORMAL, UNKNOWN, USER_DEFINED

NAMED = {
    "bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "sep_token": "seperator", "pad_token": "padding",
}  # fmt: skip
ENDS = ("eos", "eot", "eom")  # of a text, of a turn, of a message: all end a generation
OLLAMA_ENDS = "tokenizer.ggml.eos_token_ids"  # of files that Ollama has converted: all that end a generation
# The same by their text, as llama.cpp finds them: most files name the end of a text only, not that of a turn
END_TEXTS = {
    "<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>",
}  # fmt: skip
HARMONY_ENDS = {"<|return|>", "<|call|>"}  # of gpt-oss, where <|end|> ends a message but not the answer

# Patterns of byte-level BPE by the name in the file
PRE_TOKENIZERS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("gpt-2", "mpt", "olmo", "phi-2", "granite-docling"), (patterns.GPT2,)),
    **dict.fromkeys(
        ("smollm", "starcoder", "refact", "command-r", "codeshell", "mellum2"), (patterns.DIGIT, patterns.GPT2)
    ),
    **dict.fromkeys(
        ("llama3", "llama-v3", "llama-bpe", "falcon3", "lfm2", "pixtral", "dbrx", "smaug-bpe", "glm4", "chatglm-bpe"),
        (patterns.LLAMA3,),
    ),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "stablelm2", "hunyuan", "megrez"), (patterns.QWEN2,)),
    "qwen35": (patterns.QWEN35,),
    **dict.fromkeys(("gpt-4o", "llama4", "kanana2", "minimax-m2"), (patterns.GPT4O,)),
    "tekken": (patterns.TEKKEN,),
    "kimi-k2": (patterns.KIMI_K2,),
    "deepseek-v3": patterns.DEEPSEEK3,
    "deepseek-coder": patterns.DEEPSEEK_CODER,
    **dict.fromkeys(("bailingmoe", "bailingmoe2", "llada-moe"), (patterns.BAILING,)),
}
# those that take a piece as it is if it is a token, before any merge
IGNORE_MERGES = {"llama3", "llama-v3", "llama-bpe", "falcon3", "lfm2", "pixtral", "glm4", "tekken"}
BEGIN_WITH_BOS = IGNORE_MERGES - {"glm4"}  # those whose texts begin with the bos token, unless the file says otherwise
COMPOSED = {"qwen2", "deepseek-r1-qwen", "megrez"}  # those that bring a text into Unicode's form NFC
NO_PRE_TOKENIZER = "default"


def tokenizer_json(metadata: Mapping[str, Any]) -> Json:
    """tokenizer.json. CheckpointError for a kind or a pre-tokenizer that is not known."""
    kind = metadata.get("tokenizer.ggml.model")
    if kind == "gpt2":
        return _byte_level(metadata)
    if kind == "llama":
        return _sentencepiece(metadata)
    known = "gpt2 (byte-level BPE) and llama (SentencePiece) are known"
    raise CheckpointError(f"the tokenizer is of the kind {kind!r}; {known}")


def tokenizer_config(metadata: Mapping[str, Any]) -> Json:
    """tokenizer_config.json: the special tokens with a name, whether texts begin with one, and the chat template."""
    tokens = _tokens(metadata)
    named = {name: _token(metadata, tokens, key) for name, key in NAMED.items()}
    config: Json = {name: token for name, token in named.items() if token is not None}
    config["add_bos_token"] = bool(metadata.get("tokenizer.ggml.add_bos_token", _begins_with_bos(metadata)))
    template, tool_use = (metadata.get(f"tokenizer.chat_template{name}") for name in ("", ".tool_use"))
    if tool_use is not None:
        return {**config, "chat_template": {"default": template, "tool_use": tool_use}}
    return config if template is None else {**config, "chat_template": template}


def generation_config(metadata: Mapping[str, Any]) -> Json:
    """generation_config.json: the tokens that end a generation."""
    named = [metadata.get(f"tokenizer.ggml.{end}_token_id") for end in ENDS]
    listed = metadata.get(OLLAMA_ENDS)
    named += listed.tolist() if isinstance(listed, np.ndarray) else []
    return {"eos_token_id": list(dict.fromkeys([*(i for i in named if isinstance(i, int)), *_ends(metadata)]))}


def _ends(metadata: Mapping[str, Any]) -> list[int]:
    added = {token["content"]: token["id"] for token in _added_tokens(metadata, (CONTROL, USER_DEFINED))}
    ends = END_TEXTS if added.keys().isdisjoint(HARMONY_ENDS) else END_TEXTS - {"<|end|>"} | HARMONY_ENDS
    return [token_id for text, token_id in added.items() if text in ends]


def _begins_with_bos(metadata: Mapping[str, Any]) -> bool:
    pre = str(metadata.get("tokenizer.ggml.pre"))
    return metadata.get("tokenizer.ggml.model") == "llama" or pre in BEGIN_WITH_BOS


def _tokens(metadata: Mapping[str, Any]) -> list[str]:
    tokens = metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise CheckpointError("the metadata has no list of tokens, tokenizer.ggml.tokens")
    return tokens


def _numbers(metadata: Mapping[str, Any], key: str, count: int, default: float) -> list[Any]:
    found = metadata.get(f"tokenizer.ggml.{key}")
    if found is None:
        return [default] * count
    if isinstance(found, str) or not hasattr(found, "tolist") or len(found) != count:
        raise CheckpointError(f"the metadata has {count} tokens, but tokenizer.ggml.{key} has not one number for each")
    return list(found.tolist())


def _token(metadata: Mapping[str, Any], tokens: list[str], key: str) -> str | None:
    token_id = metadata.get(f"tokenizer.ggml.{key}_token_id")
    return tokens[token_id] if isinstance(token_id, int) and 0 <= token_id < len(tokens) else None


def _added_tokens(metadata: Mapping[str, Any], kinds: tuple[int, ...]) -> Iterator[Json]:
    tokens = _tokens(metadata)
    types = _numbers(metadata, "token_type", len(tokens), NORMAL)
    for token_id, (token, kind) in enumerate(zip(tokens, types, strict=True)):
        if kind in kinds:
            yield bpe.added_token(token_id, token, special=kind != USER_DEFINED)


def _byte_level(metadata: Mapping[str, Any]) -> Json:
    name = str(metadata.get("tokenizer.ggml.pre", NO_PRE_TOKENIZER))
    if name not in PRE_TOKENIZERS:
        raise CheckpointError(f"the pre-tokenizer {name!r} is not known; known are: {', '.join(PRE_TOKENIZERS)}")
    merges = metadata.get("tokenizer.ggml.merges")
    if not isinstance(merges, list):
        raise CheckpointError("the metadata has no list of merges, tokenizer.ggml.merges")
    return bpe.byte_level(
        {token: token_id for token_id, token in enumerate(_tokens(metadata))},
        [_halves(merge) for merge in merges],
        PRE_TOKENIZERS[name],
        list(_added_tokens(metadata, (CONTROL, USER_DEFINED))),
        ignore_merges=name in IGNORE_MERGES,
        composes=name in COMPOSED,
        prefix_space=bool(metadata.get("tokenizer.ggml.add_space_prefix", False)),
    )


def _halves(merge: str) -> tuple[str, str]:
    """Both parts of a merge, which are separated by a space; the first one may begin with a space."""
    place = merge.find(" ", 1)
    if place < 0:
        raise CheckpointError(f"tokenizer.ggml.merges has {merge!r}: two parts with a space between are expected")
    return merge[:place], merge[place + 1 :]


def _sentencepiece(metadata: Mapping[str, Any]) -> Json:
    tokens = _tokens(metadata)
    return bpe.sentencepiece(
        tokens,
        _numbers(metadata, "scores", len(tokens), 0.0),
        list(_added_tokens(metadata, (UNKNOWN, CONTROL, USER_DEFINED))),
        unknown=_token(metadata, tokens, "unknown"),
        prefix_space=bool(metadata.get("tokenizer.ggml.add_space_prefix", True)),
    )

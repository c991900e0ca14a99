"""The tokenizer of a GGUF file as the tokenizer.json and tokenizer_config.json of the checkpoint it was made from.

Two kinds are known: byte-level BPE ("gpt2"), with the pre-tokenizers below, and SentencePiece's BPE ("llama"), where
the merges follow from the scores of the tokens.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from model.checkpoints.reader import CheckpointError

Json = dict[str, Any]
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # types of tokens
ADDED = (CONTROL, USER_DEFINED)
NAMED = {
    "bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "sep_token": "seperator", "pad_token": "padding",
}  # fmt: skip
ENDS = ("eos", "eot", "eom")  # of a text, of a turn, of a message: all end a generation

_ENGLISH = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = rf"{_ENGLISH}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_REST}"
_QWEN2 = rf"{_ENGLISH}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_REST}"
_QWEN35 = (
    rf"{_ENGLISH}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_WORD = r"[^\r\n\p{L}\p{N}]?"
_CASED_REST = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_GPT4O = (
    rf"{_WORD}{_UPPER}*{_LOWER}+{_ENGLISH}?|{_WORD}{_UPPER}+{_LOWER}*{_ENGLISH}?|\p{{N}}{{1,3}}|{_CASED_REST}"
)  # fmt: skip
_TEKKEN = rf"{_WORD}{_UPPER}*{_LOWER}+|{_WORD}{_UPPER}+{_LOWER}*|\p{{N}}|{_CASED_REST}"
_DEEPSEEK3 = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_BAILING = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
_DIGIT_THEN_GPT2 = (r"\p{N}", _GPT2)

# Patterns of byte-level BPE by the name in the file; a text is split by the first, the pieces by the next
PRE_TOKENIZERS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("gpt-2", "mpt", "olmo", "phi-2", "granite-docling"), (_GPT2,)),
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r", "codeshell", "mellum2"), _DIGIT_THEN_GPT2),
    **dict.fromkeys(
        ("llama3", "llama-v3", "llama-bpe", "falcon3", "lfm2", "pixtral", "dbrx", "smaug-bpe", "glm4", "chatglm-bpe"),
        (_LLAMA3,),
    ),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "stablelm2", "hunyuan", "megrez"), (_QWEN2,)),
    "qwen35": (_QWEN35,),
    **dict.fromkeys(("gpt-4o", "llama4", "kanana2", "minimax-m2"), (_GPT4O,)),
    "tekken": (_TEKKEN,),
    "deepseek-v3": (r"\p{N}{1,3}", "[一-龥\u3040-ゟ゠-ヿ]+", _DEEPSEEK3),
    "deepseek-coder": (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥\u0800-一가-\ud7ff]+", r"\p{N}"),
    **dict.fromkeys(("bailingmoe", "bailingmoe2", "llada-moe"), (_BAILING,)),
}
# those that take a piece as it is if it is a token, before any merge
IGNORE_MERGES = {"llama3", "llama-v3", "llama-bpe", "falcon3", "lfm2", "pixtral", "glm4", "tekken"}
COMPOSED = {"qwen2", "deepseek-r1-qwen", "megrez"}  # those that bring a text into Unicode's form NFC
NO_PRE_TOKENIZER = "default"


def tokenizer_json(metadata: Mapping[str, Any]) -> Json:
    """tokenizer.json. CheckpointError for a kind or a pre-tokenizer that is not known."""
    kind = metadata.get("tokenizer.ggml.model")
    if kind == "gpt2":
        parts = _byte_level(metadata)
    elif kind == "llama":
        parts = _sentencepiece(metadata)
    else:
        raise CheckpointError(f"the tokenizer is of the kind {kind!r}; gpt2 (byte-level BPE) and llama "
                              "(SentencePiece) are known")  # fmt: skip
    empty = {"version": "1.0", "truncation": None, "padding": None, "post_processor": None}
    return {**empty, "added_tokens": list(_added_tokens(metadata)), **parts}


def tokenizer_config(metadata: Mapping[str, Any]) -> Json:
    """tokenizer_config.json: the special tokens with a name, whether texts begin with one, and the chat template."""
    tokens = _tokens(metadata)
    named = {name: _token(metadata, tokens, key) for name, key in NAMED.items()}
    config: Json = {name: token for name, token in named.items() if token is not None}
    config["add_bos_token"] = bool(metadata.get("tokenizer.ggml.add_bos_token", _begins_with_bos(metadata)))
    template = metadata.get("tokenizer.chat_template")
    return config if template is None else {**config, "chat_template": template}


def generation_config(metadata: Mapping[str, Any]) -> Json:
    """generation_config.json: the tokens that end a generation."""
    ids = (metadata.get(f"tokenizer.ggml.{end}_token_id") for end in ENDS)
    return {"eos_token_id": list(dict.fromkeys(i for i in ids if isinstance(i, int)))}


def _begins_with_bos(metadata: Mapping[str, Any]) -> bool:
    pre = str(metadata.get("tokenizer.ggml.pre"))
    return metadata.get("tokenizer.ggml.model") == "llama" or pre in IGNORE_MERGES - {"glm4"}


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


def _added_tokens(metadata: Mapping[str, Any]) -> Iterator[Json]:
    tokens = _tokens(metadata)
    types = _numbers(metadata, "token_type", len(tokens), NORMAL)
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    for token_id, (token, kind) in enumerate(zip(tokens, types, strict=True)):
        if kind in ADDED or (kind == UNKNOWN and metadata["tokenizer.ggml.model"] == "llama"):
            yield {"id": token_id, "content": token, **flags, "special": kind != USER_DEFINED}


def _byte_level(metadata: Mapping[str, Any]) -> Json:
    name = str(metadata.get("tokenizer.ggml.pre", NO_PRE_TOKENIZER))
    if name not in PRE_TOKENIZERS:
        raise CheckpointError(f"the pre-tokenizer {name!r} is not known; known are: {', '.join(PRE_TOKENIZERS)}")
    splits = [_split({"Regex": pattern}) for pattern in PRE_TOKENIZERS[name]]
    prefix = bool(metadata.get("tokenizer.ggml.add_space_prefix", False))
    merges = metadata.get("tokenizer.ggml.merges")
    if not isinstance(merges, list):
        raise CheckpointError("the metadata has no list of merges, tokenizer.ggml.merges")
    byte_level = {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": False}
    return {
        "normalizer": {"type": "NFC"} if name in COMPOSED else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*splits, byte_level]},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            **_bpe(_tokens(metadata), [list(_halves(merge)) for merge in merges]),
            "ignore_merges": name in IGNORE_MERGES,
        },
    }


def _split(pattern: Json) -> Json:
    return {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}


def _halves(merge: str) -> tuple[str, str]:
    """Both parts of a merge, which are separated by a space; the first one may begin with a space."""
    place = merge.find(" ", 1)
    if place < 0:
        raise CheckpointError(f"tokenizer.ggml.merges has {merge!r}: two parts with a space between are expected")
    return merge[:place], merge[place + 1 :]


def _bpe(tokens: list[str], merges: list[list[str]]) -> Json:
    vocabulary = {token: token_id for token_id, token in enumerate(tokens)}
    return {
        "type": "BPE", "dropout": None, "unk_token": None,
        "continuing_subword_prefix": None, "end_of_word_suffix": None,
        "fuse_unk": False, "byte_fallback": False, "ignore_merges": False, "vocab": vocabulary, "merges": merges,
    }  # fmt: skip


def _sentencepiece(metadata: Mapping[str, Any]) -> Json:
    tokens, space = _tokens(metadata), {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    prefix = metadata.get("tokenizer.ggml.add_space_prefix", True)
    normalizers = [*([{"type": "Prepend", "prepend": "▁"}] if prefix else []), space]
    decoders = [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        *([{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []),
    ]
    unknown = _token(metadata, tokens, "unknown")
    merges = _merges_of_scores(tokens, _numbers(metadata, "scores", len(tokens), 0.0))
    return {
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {**_bpe(tokens, merges), "unk_token": unknown, "fuse_unk": True, "byte_fallback": True},
    }


def _merges_of_scores(tokens: list[str], scores: list[float]) -> list[list[str]]:
    """SentencePiece joins the two neighbours that make the token of the highest score, first of equals by their ids."""
    ids = {token: token_id for token_id, token in enumerate(tokens)}
    found = []
    for token, score in zip(tokens, scores, strict=True):
        for place in range(1, len(token)):
            left, right = token[:place], token[place:]
            if left in ids and right in ids:
                found.append((-score, ids[token], ids[left], ids[right], [left, right]))
    return [entry[-1] for entry in sorted(found, key=lambda entry: entry[:-1])]

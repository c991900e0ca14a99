"""vocab.json and merges.txt, the files of GPT-2's tokenizer and its successors (openai.com, "gpt-2")."""

from collections.abc import Iterator, Mapping
from typing import Any

from model.text.conversion import bpe
from model.text.conversion.patterns import GPT2, QWEN2

# By the `tokenizer_class` of tokenizer_config.json, with or without "Fast"; these files do not say how a text is split
_CLASSES = {None: (GPT2, False), "GPT2Tokenizer": (GPT2, False), "Qwen2Tokenizer": (QWEN2, True)}


def from_files(vocabulary: Mapping[str, Any], merges: str, tokenizer_class: str | None) -> bpe.Json:
    """tokenizer.json. ValueError for another class of tokenizer, or a vocabulary that is not one."""
    name = None if tokenizer_class is None else str(tokenizer_class).removesuffix("Fast")
    if name not in _CLASSES:
        known = ", ".join(str(found) for found in _CLASSES if found)
        raise ValueError(f"tokenizer_class {tokenizer_class!r} has no tokenizer.json, and is not known; known: {known}")
    if not all(isinstance(token_id, int) for token_id in vocabulary.values()):
        raise ValueError("vocab.json has an id that is no whole number")
    pattern, composes = _CLASSES[name]
    return bpe.byte_level(vocabulary, _merges(merges), [pattern], composes=composes)


def _merges(text: str) -> Iterator[list[str]]:
    for line in text.splitlines():
        if line.strip() and not line.startswith("#version"):
            parts = line.split(" ")
            if len(parts) != 2:
                raise ValueError(f"merges.txt has the line {line!r}: two parts are expected")
            yield parts

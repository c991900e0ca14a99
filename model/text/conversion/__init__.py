"""tokenizer.json made of other tokenizer files: SentencePiece models, vocab.json with merges.txt, and tekken."""

from typing import Any

from model.files import Directory, read_object, read_object_if_any
from model.text.conversion import gpt2, sentencepiece, tekken

SENTENCEPIECE, VOCABULARY, MERGES, TEKKEN = "tokenizer.model", "vocab.json", "merges.txt", "tekken.json"


def converted_tokenizer(directory: Directory) -> dict[str, Any] | None:
    """The tokenizer.json of a checkpoint that has none; None where it has no other tokenizer either.

    ValueError where a file is damaged, or of a kind that is not known.
    """
    if (directory / SENTENCEPIECE).is_file():
        return sentencepiece.from_model((directory / SENTENCEPIECE).read_bytes())
    if (directory / VOCABULARY).is_file() and (directory / MERGES).is_file():
        merges = (directory / MERGES).read_text(encoding="utf-8")
        settings = read_object_if_any(directory / "tokenizer_config.json")
        return gpt2.from_files(read_object(directory / VOCABULARY), merges, settings.get("tokenizer_class"))
    if (directory / TEKKEN).is_file():
        return tekken.from_file(read_object(directory / TEKKEN))
    return None

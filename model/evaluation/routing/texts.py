"""The texts of a routing report, and what is known of their tokens: task, language and kind."""

import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.text.language_detection import detect_language
from model.text.tokenizer import Tokenizer
from model.training.data.rows import read_rows, row_texts

OPENING_TOKENS = 4  # the first tokens of a text are of a kind of their own
PLAIN = "text"  # the task of a row that names none
Text = tuple[str, str | None, str]  # task, language if it is known, and text


@dataclass(frozen=True, slots=True)
class LabelledText:
    """`token_ids` of a text, cut to a length; `kinds` has an entry for each."""

    task: str
    language: str
    token_ids: tuple[int, ...]
    kinds: tuple[str, ...]


def read_texts(path: Path, tokenizer: Tokenizer, max_tokens: int, max_length: int) -> Iterator[LabelledText]:
    """The texts of a JSON Lines file, in the order of its rows, until they have `max_tokens` tokens.

    A row is {"text", "task", "language"}, of which the last two may be left out, or a row of training data. ValueError
    names a line that is neither.
    """
    left = max_tokens
    for task, language, text in _texts(path):
        ids = tokenizer.encode_document(text)[: min(max_length, left)]
        if not ids:
            continue
        left -= len(ids)
        yield LabelledText(task, language or detect_language(text), tuple(ids), token_kinds(tokenizer, ids))
        if left <= 0:
            return


def token_kinds(tokenizer: Tokenizer, ids: list[int]) -> tuple[str, ...]:
    """Of every token: opening, digit, Chinese, word, punctuation or other."""
    pieces = [tokenizer.token_bytes(token_id).decode("utf-8", "replace").strip() for token_id in ids]
    return ("opening",) * min(OPENING_TOKENS, len(ids)) + tuple(map(_kind, pieces[OPENING_TOKENS:]))


def _kind(piece: str) -> str:
    if not piece or "\ufffd" in piece:
        return "other"
    if piece[0].isdigit():
        return "digit"
    if "\u4e00" <= piece[0] <= "\u9fff":
        return "Chinese"
    if piece[0].isalpha():
        return "word"
    return "punctuation" if unicodedata.category(piece[0])[0] in "PS" else "other"


def _texts(path: Path) -> Iterator[Text]:
    for number, row in enumerate(read_rows(path), start=1):
        try:
            yield from _texts_of(row)
        except (KeyError, TypeError, UnicodeEncodeError) as error:
            raise ValueError(f"{path}, line {number}: an object with a text is expected: {error!r}") from None


def _texts_of(row: Mapping[str, Any]) -> list[Text]:
    if isinstance(row.get("text"), str) or "task" not in row:
        found = [(row.get("task", PLAIN), row.get("language"), row["text"])]
    else:
        found = [(row["task"], language, text) for text, language in row_texts(dict(row))]
    if not all(isinstance(part, str) for task, language, text in found for part in (task, language or "", text)):
        raise TypeError("text, task and language are strings")
    for _, _, text in found:
        text.encode()  # a lone surrogate is no text
    return found

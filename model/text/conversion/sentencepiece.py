"""SentencePiece's tokenizer.model: a protocol buffer (sentencepiece_model.proto), of which a few fields are read."""

import struct
from base64 import b64encode
from collections.abc import Iterator, Mapping
from typing import Any

from model.text.conversion import bpe

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
BPE = 2  # the kind of model; the others are unigram (the default), word and char
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types


def from_model(content: bytes) -> bpe.Json:
    """tokenizer.json. ValueError for a damaged file, and for another model than byte pair encoding."""
    pieces: list[tuple[str, float, int]] = []
    trainer: dict[int, Any] = {}
    normalizer: dict[int, Any] = {}
    for number, value in _fields(content):
        if number == 1:
            pieces.append(_piece(value))
        elif number == 2:
            trainer = dict(_fields(value))
        elif number == 3:
            normalizer = dict(_fields(value))
    if not pieces or trainer.get(3, 1) != BPE:
        raise ValueError("tokenizer.model is no byte pair encoding, the only kind of SentencePiece models that is read")
    return _tokenizer(pieces, list(_normalizers(normalizer)), prefix_space=bool(normalizer.get(3, 1)))


def _normalizers(settings: Mapping[int, Any]) -> Iterator[bpe.Json]:
    """What SentencePiece does with a text first: it replaces characters, and leaves out spaces beside others."""
    replacements = settings.get(2, b"")
    if not isinstance(replacements, bytes):
        raise ValueError("tokenizer.model is damaged")
    if replacements:
        yield {"type": "Precompiled", "precompiled_charsmap": b64encode(replacements).decode()}
    if settings.get(4, 1):
        yield {"type": "Replace", "pattern": {"Regex": r"\A +| +\z| +(?= )"}, "content": ""}


def _tokenizer(pieces: list[tuple[str, float, int]], normalizers: list[bpe.Json], *, prefix_space: bool) -> bpe.Json:
    tokens, scores = [token for token, _, _ in pieces], [score for _, score, _ in pieces]
    added = [
        bpe.added_token(token_id, token, special=kind != USER_DEFINED)
        for token_id, (token, _, kind) in enumerate(pieces)
        if kind in (UNKNOWN, CONTROL, USER_DEFINED)
    ]
    unknown = next((token for token, _, kind in pieces if kind == UNKNOWN), None)
    bos = "<s>" if "<s>" in tokens else None
    return bpe.sentencepiece(
        tokens, scores, added, unknown=unknown, bos=bos, prefix_space=prefix_space, normalizers=normalizers
    )


def _piece(content: Any) -> tuple[str, float, int]:
    """Text, score and kind of a token."""
    fields = dict(_fields(content))
    text, score, kind = fields.get(1, b""), fields.get(2, b"\0" * 4), fields.get(3, NORMAL)
    if not isinstance(text, bytes) or not isinstance(score, bytes) or len(score) != 4 or not isinstance(kind, int):
        raise ValueError("tokenizer.model is damaged")
    return text.decode(), float(struct.unpack("<f", score)[0]), kind


def _fields(content: Any) -> Iterator[tuple[int, Any]]:
    """Number and value of every field of a message: an int, or the bytes of anything else."""
    if not isinstance(content, bytes):
        raise ValueError("tokenizer.model is damaged")
    place = 0
    while place < len(content):
        key, place = _varint(content, place)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, place = _varint(content, place)
            yield number, value
            continue
        size = {_FIXED32: 4, _FIXED64: 8}.get(kind)
        if kind == _BYTES:
            size, place = _varint(content, place)
        if size is None or size > len(content) - place:
            raise ValueError("tokenizer.model is damaged")
        yield number, content[place : place + size]
        place += size


def _varint(content: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while place < len(content) and shift < 64:
        byte = content[place]
        value, place, shift = value | (byte & 127) << shift, place + 1, shift + 7
        if byte < 128:
            return value, place
    raise ValueError("tokenizer.model is damaged")

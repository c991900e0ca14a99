"""Two kinds of byte pair encoding as the content of a tokenizer.json: over bytes, and SentencePiece's."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

Json = dict[str, Any]
SPACE = "▁"  # a space in SentencePiece's vocabularies


def byte_level(
    vocabulary: Mapping[str, int],
    merges: Iterable[Sequence[str]],
    patterns: Sequence[str],
    added: Sequence[Json] = (),
    *,
    ignore_merges: bool = False,
    composes: bool = False,
    prefix_space: bool = False,
) -> Json:
    """A text is split by the first of `patterns`, the pieces by the next.

    `ignore_merges`: a piece that is a token is that token, before any merge. `composes`: texts are brought into
    Unicode's form NFC.
    """
    splits = [_split({"Regex": pattern}) for pattern in patterns]
    last = {"type": "ByteLevel", "add_prefix_space": prefix_space, "trim_offsets": True, "use_regex": False}
    return {
        **_frame(added),
        "normalizer": {"type": "NFC"} if composes else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*splits, last]},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {**_model(vocabulary, merges), "ignore_merges": ignore_merges},
    }


def sentencepiece(
    tokens: Sequence[str],
    scores: Sequence[float],
    added: Sequence[Json] = (),
    *,
    unknown: str | None = None,
    bos: str | None = None,
    prefix_space: bool = True,
    normalizers: Sequence[Json] = (),
) -> Json:
    """`bos` begins every text, if it is given. `prefix_space`: so does a space. `normalizers` change a text before."""
    to_space = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    from_space = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
    prefix = [{"type": "Prepend", "prepend": SPACE}] if prefix_space else []
    without_prefix = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix_space else []
    decoders = [from_space, {"type": "ByteFallback"}, {"type": "Fuse"}, *without_prefix]
    vocabulary = {token: token_id for token_id, token in enumerate(tokens)}
    options = {"unk_token": unknown, "fuse_unk": True, "byte_fallback": True}
    return {
        **_frame(added),
        "normalizer": {"type": "Sequence", "normalizers": [*normalizers, *prefix, to_space]},
        "pre_tokenizer": None,
        "post_processor": None if bos is None else _begins_with(bos, vocabulary[bos]),
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {**_model(vocabulary, merges_of(vocabulary, scores)), **options},
    }


def byte_characters() -> list[str]:
    """The character that a byte-level vocabulary has for each byte.

    Printable Latin-1 bytes are their own character; the others are, in order, the characters from U+0100.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def added_token(token_id: int, content: str, *, special: bool) -> Json:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": token_id, "content": content, **flags, "special": special}


def merges_of(ids: Mapping[str, int], scores: Sequence[float] | None = None) -> list[list[str]]:
    """The merges that make the tokens of a vocabulary: those of the highest score first, of equals by their ids."""
    lengths = {len(token) for token in ids}
    found = [
        (0.0 if scores is None else -scores[token_id], token_id, ids[left], ids[right], [left, right])
        for token, token_id in ids.items()
        for left, right in _splits(token, lengths)
        if left in ids and right in ids
    ]
    return [merge for *_, merge in sorted(found, key=lambda entry: entry[:-1])]


def _splits(token: str, lengths: Collection[int]) -> Iterable[tuple[str, str]]:
    """Into parts that have lengths of tokens: there are few of these, however long the longest token is."""
    places = (place for place in lengths if 0 < place < len(token) and len(token) - place in lengths)
    return ((token[:place], token[place:]) for place in places)


def _frame(added: Sequence[Json]) -> Json:
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "post_processor": None,
        "added_tokens": list(added),
    }


def _model(vocabulary: Mapping[str, int], merges: Iterable[Sequence[str]]) -> Json:
    return {
        "type": "BPE", "dropout": None, "unk_token": None,
        "continuing_subword_prefix": None, "end_of_word_suffix": None,
        "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
        "vocab": dict(vocabulary), "merges": [list(merge) for merge in merges],
    }  # fmt: skip


def _split(pattern: Json) -> Json:
    return {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}


def _begins_with(token: str, token_id: int) -> Json:
    special = {"SpecialToken": {"id": token, "type_id": 0}}
    first, second = ({"Sequence": {"id": name, "type_id": place}} for place, name in enumerate("AB"))
    return {
        "type": "TemplateProcessing",
        "single": [special, first],
        "pair": [special, first, special, second],
        "special_tokens": {token: {"id": token, "ids": [token_id], "tokens": [token]}},
    }

"""Text to token ids and back, as the tokenizer.json of a checkpoint says."""

import codecs
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import tokenizers
from tokenizers.decoders import ByteLevel

from model.files import read_object_if_any
from model.text.special_tokens import END_OF_TEXT, task_tag

_LONGEST_CHARACTER = 4  # bytes, and so tokens


@dataclass(frozen=True, slots=True)
class TokenizedText:
    """Token ids with the characters they stand for: token i is text[starts[i]:ends[i]]."""

    ids: list[int]
    starts: list[int]
    ends: list[int]


class Tokenizer:
    """The tokenizer of a checkpoint. Safe to use from several threads at once: nothing changes after loading."""

    def __init__(self, tokenizer_json: str, eos_tokens: Sequence[str | int] = ()) -> None:
        """`eos_tokens` are the tokens that end a generation, by text or by id. ValueError where one is unknown."""
        # encode_special_tokens is a switch on the whole object, hence two of them instead of one that is switched.
        self._with_special = _load_backend(tokenizer_json)
        self._text_only = _load_backend(tokenizer_json)
        self._text_only.encode_special_tokens = True
        added = self._with_special.get_added_tokens_decoder()
        self.special_tokens: Mapping[str, int] = {token.content: i for i, token in added.items() if token.special}
        self.special_ids = frozenset(self.special_tokens.values())
        self.vocab_size = max(self._with_special.get_vocab().values()) + 1
        self.eos_token_ids = tuple(dict.fromkeys(self._id_of(token) for token in eos_tokens))
        self._token_bytes = [b""] * self.vocab_size
        for token_id, value in _vocabulary_bytes(self._with_special):
            self._token_bytes[token_id] = value

    @classmethod
    def load(cls, directory: Path) -> "Tokenizer":
        """Read tokenizer.json, and what ends a generation from all files that say so.

        ValueError where tokenizer.json is missing or broken.
        """
        path = directory / "tokenizer.json"
        if not path.is_file():
            raise ValueError(f"{directory} has no tokenizer.json: only checkpoints with a fast tokenizer can be loaded")
        return cls(path.read_text(encoding="utf-8"), _eos_tokens(directory))

    def encode(self, text: str, allow_special: bool = False) -> list[int]:
        """Return the ids of `text`. Special tokens in it stay ordinary text unless `allow_special`.

        ValueError where the text is no valid Unicode (a lone surrogate).
        """
        ids: list[int] = self._encode(text, allow_special).ids
        return ids

    def encode_with_offsets(self, text: str, allow_special: bool = False) -> TokenizedText:
        """Like `encode`, with the place of each token in the text."""
        encoding = self._encode(text, allow_special)
        offsets = encoding.offsets
        return TokenizedText(encoding.ids, [start for start, _ in offsets], [end for _, end in offsets])

    def encode_document(self, text: str, allow_special: bool = False) -> list[int]:
        """Return the ids of `text` as plain text begins in training: after the start token, if the model has one."""
        if task_tag("generate") in self.special_tokens:
            return [self.special_tokens[END_OF_TEXT], *self.encode(text, allow_special)]
        backend = self._with_special if allow_special else self._text_only
        ids: list[int] = _encode(backend, text, add_special_tokens=True).ids
        return ids

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """Return the text of `ids`; bytes that are no UTF-8 become U+FFFD, ids outside the vocabulary nothing."""
        return self._with_special.decode(list(ids), skip_special_tokens=skip_special)

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes a token stands for: often not valid UTF-8 on its own. Empty outside the vocabulary."""
        return self._token_bytes[token_id] if token_id < self.vocab_size else b""

    def stream(self, skip_special: bool = True, after: Sequence[int] = ()) -> "Detokenizer":
        """Return a detokenizer for one generated sequence.

        `after` are the tokens of the text that it continues: whether the first word has a space in front of it may
        depend on them.
        """
        token_bytes = self._text_bytes if skip_special else self.token_bytes
        if isinstance(self._with_special.decoder, ByteLevel):
            return _ByteDetokenizer(token_bytes)
        before = [token_id for token_id in after[-_LONGEST_CHARACTER:] if token_bytes(token_id)]
        return _WindowDetokenizer(token_bytes, partial(self.decode, skip_special=skip_special), before)

    def _text_bytes(self, token_id: int) -> bytes:
        return b"" if token_id in self.special_ids else self.token_bytes(token_id)

    def _encode(self, text: str, allow_special: bool) -> tokenizers.Encoding:
        backend = self._with_special if allow_special else self._text_only
        return _encode(backend, text, add_special_tokens=False)

    def _id_of(self, token: str | int) -> int:
        token_id = self._with_special.token_to_id(token) if isinstance(token, str) else token
        if token_id is None:
            raise ValueError(f"end token {token!r} is not in the vocabulary of the tokenizer")
        return token_id


class Detokenizer(Protocol):
    """Turns ids into text as they come, a piece at a time, and never emits a part of a character.

    The pieces joined are what `decode` gives for all ids at once. (With byte fallback, where bytes are no UTF-8, the
    number of U+FFFD may differ: there `decode` gives up characters that came before them.)
    """

    def push(self, ids: Sequence[int]) -> str:
        """Take the next ids; return the text that is complete now."""

    def finish(self) -> str:
        """Return what was held back, with U+FFFD for characters that never became complete."""


class _ByteDetokenizer:
    """For tokens that are nothing but bytes."""

    def __init__(self, token_bytes: Callable[[int], bytes]) -> None:
        self._token_bytes = token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, ids: Sequence[int]) -> str:
        return self._decoder.decode(b"".join(map(self._token_bytes, ids)))

    def finish(self) -> str:
        return self._decoder.decode(b"", final=True)


class _WindowDetokenizer:
    """For all others: the text of a token may depend on the tokens before it, such as a space in front of a word.

    So new tokens are decoded together with those of the last piece. A character has four bytes at most: tokens that
    are more and still make none never will, and come out as they are, else each would be decoded again and again.
    """

    def __init__(
        self, token_bytes: Callable[[int], bytes], decode: Callable[[list[int]], str], before: list[int]
    ) -> None:
        self._token_bytes, self._decode = token_bytes, decode
        self._before = before
        self._pending: list[int] = []

    def push(self, ids: Sequence[int]) -> str:
        # What has no text is left out, so that it cannot come between the bytes of a character.
        return "".join(self._step(token_id) for token_id in ids if self._token_bytes(token_id))

    def finish(self) -> str:
        text = self._pending_text()
        self._before, self._pending = self._pending, []
        return text

    def _step(self, token_id: int) -> str:
        self._pending.append(token_id)
        text = self._pending_text()
        is_complete = text and not text.endswith("\ufffd")
        return self.finish() if is_complete or len(self._pending) > _LONGEST_CHARACTER else ""

    def _pending_text(self) -> str:
        before, text = self._decode(self._before), self._decode(self._before + self._pending)
        return text[len(before) :] if text.startswith(before) else self._decode(self._pending)


def token_text(token: Any) -> str | None:
    """Return the text of a token as tokenizer_config.json writes it: a string, or an object with `content`."""
    text: str | None = token["content"] if isinstance(token, dict) else token
    return text


def _load_backend(tokenizer_json: str) -> tokenizers.Tokenizer:
    try:
        backend = tokenizers.Tokenizer.from_str(tokenizer_json)
    except Exception as error:  # the library raises bare Exception
        raise ValueError(f"tokenizer.json cannot be read: {error}") from error
    backend.no_truncation()
    backend.no_padding()
    return backend


def _encode(backend: tokenizers.Tokenizer, text: str, add_special_tokens: bool) -> tokenizers.Encoding:
    # A batch of one, since `encode` keeps all other threads of Python waiting until it is done.
    return backend.encode_batch([_valid(text)], add_special_tokens=add_special_tokens)[0]


def _eos_tokens(directory: Path) -> list[str | int]:
    """Every token that one of the checkpoint's files says ends a generation: they rarely name all of them."""
    config = read_object_if_any(directory / "config.json")
    named = [
        read_object_if_any(directory / "generation_config.json").get("eos_token_id"),
        config.get("eos_token_id"),
        config.get("text_config", {}).get("eos_token_id"),
        token_text(read_object_if_any(directory / "tokenizer_config.json").get("eos_token")),
    ]
    found: list[str | int] = []
    for tokens in named:
        found += tokens if isinstance(tokens, list) else [] if tokens is None else [tokens]
    return found


def _valid(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"text is not valid Unicode at character {error.start}: remove the lone surrogate") from error
    return text


def _vocabulary_bytes(backend: tokenizers.Tokenizer) -> Iterator[tuple[int, bytes]]:
    added = backend.get_added_tokens_decoder()
    is_byte_level = '"ByteLevel"' in json.dumps(json.loads(backend.to_str())["decoder"])
    to_byte = _byte_level_alphabet()
    for token, token_id in backend.get_vocab().items():
        if is_byte_level and to_byte.keys() >= set(token):
            yield token_id, b"".join(to_byte[character] for character in token)
        elif is_byte_level or token_id in added:
            yield token_id, token.encode()
        elif len(token) == 6 and token.startswith("<0x"):  # byte fallback of SentencePiece vocabularies
            yield token_id, bytes([int(token[3:5], 16)])
        else:
            yield token_id, token.replace("\u2581", " ").encode()


def _byte_level_alphabet() -> dict[str, bytes]:
    """Return the byte each character of a byte-level vocabulary stands for.

    Printable Latin-1 bytes are their own character; the others are, in order, the characters from U+0100.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): bytes([byte]) for byte in printable}
    return alphabet | {chr(0x100 + number): bytes([byte]) for number, byte in enumerate(others)}

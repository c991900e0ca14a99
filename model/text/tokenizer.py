"""Text to token ids and back, with the tokenizer of a checkpoint."""

import json
import logging
import re
import secrets
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import tokenizers
from tokenizers import AddedToken
from tokenizers.decoders import ByteLevel

from model.files import Directory
from model.text.chat_formats.harmony import MARKERS, HarmonyAnswer, last_message, uses_harmony
from model.text.chat_formats.router import ContentDetokenizer
from model.text.conversion.bpe import byte_characters
from model.text.detokenizer import ByteDetokenizer, Detokenizer, WindowDetokenizer
from model.text.special_tokens import END_OF_TEXT, task_tag
from model.text.tokenizer_files import TokenizerFiles, load_backend

logger = logging.getLogger(__name__)
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")  # byte fallback of SentencePiece vocabularies


@dataclass(frozen=True, slots=True)
class TokenizedText:
    """Token ids with the characters they stand for: token i is text[starts[i]:ends[i]]."""

    ids: list[int]
    starts: list[int]
    ends: list[int]


class PlainTextEncoder:
    """Encodes text in which no special token is recognized, nor any token of `others`: all are ordinary text."""

    def __init__(self, tokenizer_json: str, others: Collection[str] = ()) -> None:
        content = json.loads(tokenizer_json) if others else None
        if content is not None:
            for token in content["added_tokens"]:
                token["special"] = token["special"] or token["content"] in others
        self._backend = load_backend(tokenizer_json if content is None else json.dumps(content))
        self._backend.encode_special_tokens = True
        self._lead = f"\ue000{secrets.token_hex(16)}"  # represents the text before; random, so that no text contains it
        self._backend.add_tokens([AddedToken(self._lead, special=False, normalized=False)])

    def encode(self, text: str) -> TokenizedText:
        """Encode a text that begins here."""
        return _tokenized(self._backend, text)

    def encode_ids(self, text: str) -> list[int]:
        """The ids of `encode`, in less time."""
        return _ids(self._backend, text, add_special_tokens=False)

    def encode_continuation(self, text: str) -> TokenizedText:
        """Encode text that follows a special token: some tokenizers put a space before the first word of a text."""
        whole, lead = self.encode(self._lead + text), len(self._lead)
        return TokenizedText(whole.ids[1:], *([place - lead for place in p[1:]] for p in (whole.starts, whole.ends)))

    def encode_document(self, text: str) -> list[int]:
        """Like `encode`, with the special tokens that the post-processor puts around a text."""
        return _ids(self._backend, text, add_special_tokens=True)


class Tokenizer:
    """The tokenizer of a checkpoint. Immutable after loading, so several threads may use it at once."""

    def __init__(
        self, tokenizer_json: str, eos_tokens: Sequence[str | int] = (), *, files: TokenizerFiles | None = None
    ) -> None:
        """`eos_tokens` end a generation, by text or by id; those that the model cannot generate are left out."""
        # encode_special_tokens is a switch of the whole object, so there are two of them.
        self._with_special = load_backend(tokenizer_json)
        self._json, self.plain_text = tokenizer_json, PlainTextEncoder(tokenizer_json)
        added = self._with_special.get_added_tokens_decoder()
        self.special_tokens: Mapping[str, int] = {token.content: i for i, token in added.items() if token.special}
        self.special_ids = frozenset(self.special_tokens.values())
        self.added_tokens: Mapping[str, int] = {token.content: i for i, token in added.items()}
        self.added_token_flags: Mapping[int, AddedToken] = added
        self.vocab_size = max(self._with_special.get_vocab().values()) + 1
        limit = (files and files.vocab_size) or self.vocab_size
        self.eos_token_ids = tuple(dict.fromkeys(_known_ids(self._with_special, eos_tokens, limit)))
        self._prefix_ids, self._suffix_ids = self._document_prefix(files), self._document_suffix(files)
        content = json.loads(tokenizer_json)
        self.unknown_id = _unknown_id(content["model"], self._with_special)
        self._token_bytes = [b""] * self.vocab_size
        for token_id, value in _vocabulary_bytes(self._with_special, content.get("decoder")):
            self._token_bytes[token_id] = value

    @classmethod
    def load(cls, directory: Directory) -> "Tokenizer":
        """Read tokenizer.json and what other files say about special tokens.

        ValueError where tokenizer.json is missing, or where one of the files is broken.
        """
        try:
            files = TokenizerFiles.load(directory)
            return cls(files.complete_json(), files.ends, files=files)
        except (AttributeError, LookupError, TypeError) as error:  # a number where a list is expected, and the like
            raise ValueError(f"the tokenizer of {directory} cannot be read: {error!r}") from error

    @property
    def normalizes_added_tokens(self) -> bool:
        """Whether added tokens are also found in other spellings, such as in upper case."""
        return self._with_special.normalizer is not None and any(
            token.normalized for token in self.added_token_flags.values()
        )

    def encode(self, text: str, allow_special: bool = False) -> list[int]:
        """Return the ids of `text`. Special tokens in it stay ordinary text unless `allow_special`.

        ValueError where the text is no valid Unicode (a lone surrogate).
        """
        if not allow_special:
            return self.plain_text.encode_ids(text)
        return _ids(self._with_special, text, add_special_tokens=False)

    def encode_with_offsets(self, text: str, allow_special: bool = False) -> TokenizedText:
        """Like `encode`, with the place of each token in the text."""
        if not allow_special:
            return self.plain_text.encode(text)
        return _tokenized(self._with_special, text)

    def encode_document(self, text: str, allow_special: bool = True, add_special_tokens: bool = True) -> list[int]:
        """Return the ids of a text to be continued, after the tokens that begin a text in training.

        Special tokens in it are read unless `allow_special` is false. A post-processor that would end the text, such as
        with an end token, does not: it is to be continued. `add_special_tokens` false leaves out the beginning too.
        """
        prefix = self._prefix_ids if add_special_tokens else ()
        return [*prefix, *self.encode(text, allow_special)]

    def encode_whole(self, text: str, max_length: int | None = None) -> list[int]:
        """Return the ids of a text that is complete, between the tokens that begin and end a text in training.

        The end of the text is cut off where there would be more than `max_length` ids. Special tokens in it are text.
        """
        ids, around = self.encode(text), len(self._prefix_ids) + len(self._suffix_ids)
        kept = ids if max_length is None else ids[: max(0, max_length - around)]
        return [*self._prefix_ids, *kept, *self._suffix_ids]

    def plain_text_encoder(self, others: Collection[str]) -> PlainTextEncoder:
        """An encoder that treats the added tokens in `others` as ordinary text too. Takes up to a second to build."""
        return PlainTextEncoder(self._json, others) if others else self.plain_text

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """Return the text of `ids`. Invalid UTF-8 becomes U+FFFD; ids outside the vocabulary are ignored."""
        return self._with_special.decode(list(ids), skip_special_tokens=skip_special)

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes of a token, which may be a part of a character. Empty for ids outside the vocabulary."""
        return self._token_bytes[token_id] if token_id < self.vocab_size else b""

    def stream(
        self,
        skip_special: bool = True,
        *,
        prompt_ids: Sequence[int] = (),
        continues: bool = False,
        kept: frozenset[int] = frozenset(),
    ) -> Detokenizer:
        """Return a detokenizer for one sequence that is generated after `prompt_ids`.

        `continues`: prompt and answer are one text, so the answer keeps the space before its first word. Otherwise it
        is a text of its own, as in a chat. `kept` are special tokens that are written even if others are skipped: those
        of the format of a chat.
        """
        context = prompt_ids if continues else ()
        if not skip_special or kept or not uses_harmony(self.special_tokens):
            return self._plain_stream(skip_special, kept, context)
        marker_ids = frozenset(self.special_tokens[marker] for marker in MARKERS if marker in self.special_tokens)
        begun = self.decode(last_message(prompt_ids, self.special_tokens), skip_special=False)
        return ContentDetokenizer(self._plain_stream(True, marker_ids, context), HarmonyAnswer(begun))

    def _plain_stream(self, skip_special: bool, kept: frozenset[int], context: Sequence[int]) -> Detokenizer:
        skipped = self.special_ids - kept if skip_special else frozenset()
        token_bytes = partial(self._shown_bytes, skipped) if skipped else self.token_bytes
        if isinstance(self._with_special.decoder, ByteLevel):
            return ByteDetokenizer(token_bytes)
        return WindowDetokenizer(token_bytes, partial(self.decode, skip_special=False), context)

    def _shown_bytes(self, skipped: frozenset[int], token_id: int) -> bytes:
        return b"" if token_id in skipped else self.token_bytes(token_id)

    def _document_prefix(self, files: TokenizerFiles | None) -> tuple[int, ...]:
        """The tokens at the beginning of a text: from the config files, otherwise from the post-processor."""
        if task_tag("generate") in self.special_tokens:  # the bundled model was trained on documents that begin so
            return (self.special_tokens[END_OF_TEXT],)
        if files is not None and files.adds_bos is not None:
            bos = self._with_special.token_to_id(files.named.get("bos_token", ""))
            return (bos,) if files.adds_bos and bos is not None else ()
        plain, whole = self.plain_text.encode("a").ids, self.plain_text.encode_document("a")
        starts = (start for start in range(len(whole)) if whole[start : start + len(plain)] == plain)
        return tuple(whole[: next(starts, 0)])

    def _document_suffix(self, files: TokenizerFiles | None) -> tuple[int, ...]:
        """The tokens at the end of a text, which only embeddings have."""
        if files is not None and files.adds_eos:
            eos = self._with_special.token_to_id(files.named.get("eos_token", ""))
            return () if eos is None else (eos,)
        plain, whole = self.plain_text.encode("a").ids, self.plain_text.encode_document("a")
        ends = (end for end in range(len(whole), 0, -1) if whole[:end][-len(plain) :] == plain)
        return tuple(whole[next(ends, len(whole)) :])


# Both encode a batch of one, because `encode` holds the GIL until it is done.


def _tokenized(backend: tokenizers.Tokenizer, text: str) -> TokenizedText:
    encoding = backend.encode_batch([_valid(text)], add_special_tokens=False)[0]
    offsets = encoding.offsets
    return TokenizedText(encoding.ids, [start for start, _ in offsets], [end for _, end in offsets])


def _ids(backend: tokenizers.Tokenizer, text: str, add_special_tokens: bool) -> list[int]:
    ids: list[int] = backend.encode_batch_fast([_valid(text)], add_special_tokens=add_special_tokens)[0].ids
    return ids


def _valid(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"text is not valid Unicode at character {error.start}: remove the lone surrogate") from error
    return text


def _known_ids(backend: tokenizers.Tokenizer, tokens: Sequence[str | int], limit: int) -> Iterator[int]:
    """The ids of end tokens, without those that the model cannot generate. These are logged."""
    for token in tokens:
        token_id = backend.token_to_id(token) if isinstance(token, str) else token
        if token_id is not None and 0 <= token_id < limit:
            yield token_id
        else:
            logger.warning("the end token %r is left out: it is not one of the model's %d tokens", token, limit)


def _unknown_id(model: Mapping[str, Any], backend: tokenizers.Tokenizer) -> int | None:
    """The id of the unknown token, for text that is not in the vocabulary."""
    if model.get("unk_id") is not None:
        return int(model["unk_id"])
    return backend.token_to_id(model.get("unk_token") or "")


def _vocabulary_bytes(backend: tokenizers.Tokenizer, decoder: Any) -> Iterator[tuple[int, bytes]]:
    added = backend.get_added_tokens_decoder()
    is_byte_level = '"ByteLevel"' in json.dumps(decoder)
    characters = byte_characters()
    all_bytes = re.compile(f"[{re.escape(''.join(characters))}]*")
    to_latin_1 = str.maketrans({character: chr(byte) for byte, character in enumerate(characters)})
    for token, token_id in backend.get_vocab().items():
        if is_byte_level and all_bytes.fullmatch(token):
            yield token_id, token.translate(to_latin_1).encode("latin-1")
        elif is_byte_level or token_id in added:
            yield token_id, token.encode()
        elif byte := _BYTE_TOKEN.fullmatch(token):
            yield token_id, bytes.fromhex(byte[1])
        else:
            yield token_id, token.replace("\u2581", " ").encode()

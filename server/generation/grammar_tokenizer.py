"""The vocabulary as llguidance reads it: the bytes of every token, the special ones, and how text is encoded."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from model.text.chat_formats.grammar import is_tag
from model.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLTokenizer

LONGEST_TOKEN = 1000  # bytes; llguidance cannot hold much longer ones, so they are never allowed


def open_grammar_tokenizer(tokenizer: Tokenizer, vocab_size: int) -> "LLTokenizer":
    """Takes a tenth of a second and, with llguidance itself, 10 MB or more, so it is done for the first grammar."""
    from llguidance import LLTokenizer

    vocabulary: Any = _Vocabulary(tokenizer, vocab_size)  # llguidance asks for these attributes, not for its own class
    return LLTokenizer(vocabulary, eos_token=list(tokenizer.eos_token_ids) or None)


class _Vocabulary:
    """Has the attributes that llguidance asks of a tokenizer.

    A grammar can name a special token, as in `<|im_end|>`, or by its id as in `<[7]>`; no text in it matches one.
    """

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        self.eos_token_id = next(iter(tokenizer.eos_token_ids), None)
        self.tokens = [_short(tokenizer.token_bytes(token_id)) for token_id in range(vocab_size)]
        self.special_token_ids = [
            token_id
            for token, token_id in tokenizer.added_tokens.items()
            if token_id < vocab_size and (token_id in tokenizer.special_ids or is_tag(token))
        ]
        special = set(self.special_token_ids)
        self._text = [b"" if token_id in special else value for token_id, value in enumerate(self.tokens)]
        self._by_bytes = {value: token_id for token_id, value in enumerate(self._text)}
        self._encoder = tokenizer.plain_text_encoder({token for token in tokenizer.added_tokens if is_tag(token)})

    def __call__(self, text: str) -> Sequence[int]:
        """The tokens of text that the grammar forces; it follows other text."""
        token_ids = self._encoder.encode_continuation(text).ids
        data = text.encode()
        if all(token_id < len(self.tokens) for token_id in token_ids) and self._bytes(token_ids) == data:
            return token_ids
        return self._longest_matches(data)  # the tokenizer changes text, for instance to lower case

    def _bytes(self, token_ids: Sequence[int]) -> bytes:
        return b"".join(self._text[token_id] for token_id in token_ids)

    def _longest_matches(self, data: bytes) -> list[int]:
        token_ids, start = [], 0
        while start < len(data):
            ends = range(min(len(data), start + LONGEST_TOKEN), start, -1)
            end = next((end for end in ends if data[start:end] in self._by_bytes), None)
            if end is None:
                break
            token_ids.append(self._by_bytes[data[start:end]])
            start = end
        return token_ids


def _short(value: bytes) -> bytes:
    return value if len(value) <= LONGEST_TOKEN else b""

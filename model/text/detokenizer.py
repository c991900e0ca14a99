"""Token ids to text while they are generated, a piece at a time, never a part of a character."""

import codecs
from collections.abc import Callable, Sequence
from typing import Protocol

_MAX_BYTES = 4  # of a character in UTF-8, so also the largest number of tokens that make one character
_CONTEXT_TOKENS = 8  # of the prompt: enough that their text does not begin and end within one character


class Detokenizer(Protocol):
    """Turns ids into text as they come.

    The pieces joined are the text that `Tokenizer.decode` gives for all ids at once. (With byte fallback, where bytes
    are not valid UTF-8, the number of U+FFFD may differ: there `decode` replaces earlier characters too.)
    """

    def push(self, ids: Sequence[int]) -> str:
        """Take the next ids; return the text that is complete now."""

    def finish(self) -> str:
        """Return what was held back, with U+FFFD for characters that never became complete."""


class ByteDetokenizer:
    """For byte-level tokenizers: the text is the concatenation of the tokens' bytes."""

    def __init__(self, token_bytes: Callable[[int], bytes]) -> None:
        self._token_bytes = token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, ids: Sequence[int]) -> str:
        return self._decoder.decode(b"".join(map(self._token_bytes, ids)))

    def finish(self) -> str:
        return self._decoder.decode(b"", final=True)


class WindowDetokenizer:
    """For tokenizers in which the text of a token depends on the tokens before it, such as a space before a word.

    New tokens are decoded together with those of the last piece, at first with the end of `context`. A character has at
    most four bytes: if that many tokens do not complete one, they are returned as they are, because decoding a growing
    number of tokens again and again would take quadratic time.
    """

    def __init__(
        self, token_bytes: Callable[[int], bytes], decode: Callable[[list[int]], str], context: Sequence[int] = ()
    ) -> None:
        self._token_bytes, self._decode = token_bytes, decode
        self._before = [token_id for token_id in context[-_CONTEXT_TOKENS:] if token_bytes(token_id)]
        self._pending: list[int] = []

    def push(self, ids: Sequence[int]) -> str:
        # Tokens without text are left out, so that they cannot separate the bytes of a character.
        return "".join(self._step(token_id) for token_id in ids if self._token_bytes(token_id))

    def finish(self) -> str:
        text = self._pending_text()
        self._before, self._pending = self._pending, []
        return text

    def _step(self, token_id: int) -> str:
        self._pending.append(token_id)
        text = self._pending_text()
        is_complete = text and (not text.endswith("\ufffd") or self._is_valid())
        return self.finish() if is_complete or len(self._pending) > _MAX_BYTES else ""

    def _is_valid(self) -> bool:
        """Whether the pending bytes are whole characters, perhaps a U+FFFD that the model wrote itself."""
        try:
            b"".join(map(self._token_bytes, self._pending)).decode()
        except UnicodeDecodeError:
            return False
        return True

    def _pending_text(self) -> str:
        before, text = self._decode(self._before), self._decode(self._before + self._pending)
        return text[len(before) :] if text.startswith(before) else self._decode(self._pending)

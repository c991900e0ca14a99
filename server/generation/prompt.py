"""What is submitted to the engine for one answer."""

from dataclasses import dataclass, replace

from model.layers.pooling import PoolingType
from model.text.chat_formats.router import AnswerParser


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids, and the positions where other requests may share them, if they have the same `cache_salt`.

    `first_text_token`: how many tokens that begin a text were put before it. `continues_text`: the answer goes on with
    the text of the prompt, so that together they read as one. `text` is a rendered conversation, whole even where the
    ids are `is_truncated`. After an answer's tokens of `snapshot_token_ids`, others may go on. `pooling`: the answer is
    a vector, and no text. With a `content_parser` only the content that it finds in the answer is text, not the
    reasoning.
    """

    token_ids: tuple[int, ...]
    boundaries: tuple[int, ...] = ()
    first_text_token: int = 0
    continues_text: bool = False
    cache_salt: str = ""
    text: str = ""
    is_truncated: bool = False
    snapshot_token_ids: frozenset[int] = frozenset()
    pooling: PoolingType | None = None
    content_parser: AnswerParser | None = None

    def truncated(self, length: int) -> "Prompt":
        """The last `length` tokens."""
        cut = len(self.token_ids) - length
        if cut <= 0:
            return self
        boundaries = tuple(boundary - cut for boundary in self.boundaries if boundary > cut)
        kept = self.token_ids[cut:]
        return replace(self, token_ids=kept, boundaries=boundaries, first_text_token=0, is_truncated=True)

    def salted(self, cache_salt: str | None) -> "Prompt":
        return replace(self, cache_salt=cache_salt) if cache_salt else self

    def in_namespace(self, cache_salt: str) -> "Prompt":
        """Shared only by prompts that have this salt too, besides their own."""
        return replace(self, cache_salt=f"{cache_salt}\n{self.cache_salt}") if cache_salt else self

    def without_boundaries(self) -> "Prompt":
        return replace(self, boundaries=())

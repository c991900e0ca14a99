"""The events of a stream in OpenAI's shape."""

from collections.abc import Sequence
from dataclasses import dataclass

from server.api.openai_fields import StreamOptions
from server.api.sse import Event
from server.api.usage import usage_of
from server.generation.stream import RunningGeneration


@dataclass(frozen=True, slots=True)
class ChunkFactory:
    """What all chunks of a stream share. Where usage is wanted, each has the field, and one without choices ends it."""

    id: str
    object: str
    created: int
    model: str
    options: StreamOptions | None

    def of(self, *choices: Event) -> Event:
        return {**self._head(), "choices": list(choices), **({"usage": None} if self.with_usage else {})}

    def last(self, generations: Sequence[RunningGeneration], n: int) -> Event:
        """The counts, `n` generations a prompt."""
        return {**self._head(), "choices": [], "usage": usage_of(generations, n).model_dump()}

    @property
    def with_usage(self) -> bool:
        return self.options is not None and bool(self.options.include_usage)

    def _head(self) -> Event:
        return {"id": self.id, "object": self.object, "created": self.created, "model": self.model}

"""The events of a stream in OpenAI's shape."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from server.api.request_model import WithExtras
from server.api.response_model import Counted, usage_of
from server.api.sse import Event
from server.generation.stream import fewest_experts


class StreamOptions(WithExtras):
    """`continuous_usage_stats`: the counts so far in every event."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    include_obfuscation: bool | None = None


@dataclass(frozen=True, slots=True)
class ChunkHead:
    """The fields that all chunks of a stream share. `created` is in seconds since 1970."""

    id: str
    object: str
    created: int
    model: str

    def fields(self) -> Event:
        return {"id": self.id, "object": self.object, "created": self.created, "model": self.model}


@dataclass(slots=True)
class ChunkFactory:
    """Makes the chunks of a stream.

    Where a number of experts per token was chosen, the chunk with a finish reason has it. If usage is wanted, each
    chunk has the field, and a chunk without choices ends the stream. `extras` are further fields of the first chunk.
    """

    head: ChunkHead
    options: StreamOptions | None
    generations: Sequence[Counted]
    n: int
    extras: Event = field(default_factory=dict)

    def of(self, *choices: Event) -> Event:
        extras, self.extras = self.extras, {}
        if choices and choices[0].get("finish_reason") is not None:
            extras = extras | self._experts_per_token()
        return {**self.head.fields(), "choices": list(choices), **self._usage(), **extras}

    def last(self) -> Event:
        return {**self.head.fields(), "choices": [], "usage": self._counts()}

    @property
    def with_usage(self) -> bool:
        return self.options is not None and bool(self.options.include_usage)

    def _usage(self) -> Event:
        if self.options is not None and self.options.continuous_usage_stats:
            return {"usage": self._counts()}
        return {"usage": None} if self.with_usage else {}

    def _experts_per_token(self) -> Event:
        """The number that the request or the server chose, if one did."""
        number = fewest_experts(generation.usage for generation in self.generations)
        return {} if number is None else {"experts_per_token": number}

    def _counts(self) -> Event:
        return usage_of(self.generations, self.n).model_dump()

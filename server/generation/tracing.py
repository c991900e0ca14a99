"""OpenTelemetry spans of generations, named by its semantic conventions for generative AI. Texts are never in them.

FastAPI makes the span of the HTTP request. A generation is a child of it, and has three children one after another: the
time in the queue, the prefill until the first token, and the decode of the others.
"""

import time
from dataclasses import dataclass
from typing import Any

from opentelemetry import context, trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, Status, StatusCode

from server.engine.types import EmbedRequest, EngineRequest, FinishReason, RequestTimes
from server.generation.stream import GenerationObserver, Usage


def with_spans(observer: GenerationObserver, request: EngineRequest, model: str) -> GenerationObserver:
    """The observer of a new generation: also records spans if the span around it is recorded."""
    parent = context.get_current()
    if not trace.get_current_span(parent).is_recording():
        return observer
    return _SpanObserver(observer, parent, request, model)


@dataclass(frozen=True, slots=True)
class _SpanObserver:
    """Passes all events on. The spans are made at the end, when all times are known; what was refused has none."""

    observer: GenerationObserver
    parent: Context
    request: EngineRequest
    model: str

    def rejected(self, reason: str) -> None:
        self.observer.rejected(reason)

    def inter_token(self, seconds: float) -> None:
        self.observer.inter_token(seconds)

    def finished(self, reason: FinishReason, usage: Usage, times: RequestTimes | None) -> None:
        self.observer.finished(reason, usage, times)
        self._record(reason, _usage_attributes(usage), times)

    def aborted(self) -> None:
        self.observer.aborted()
        self._record(FinishReason.ABORT, {}, None)

    def _record(self, reason: FinishReason, attributes: dict[str, Any], times: RequestTimes | None) -> None:
        epoch = time.time_ns() - time.monotonic_ns()  # of the wall clock when the monotonic clock was zero
        operation = "embeddings" if isinstance(self.request, EmbedRequest) else "text_completion"
        span = _start(f"{operation} {self.model}", self.parent, epoch, self.request.arrival_time)
        span.set_attributes(
            {
                "gen_ai.operation.name": operation,
                "gen_ai.provider.name": "routelm",
                "gen_ai.request.model": self.model,
                "gen_ai.response.finish_reasons": [reason.value],
                "routelm.request_id": self.request.request_id,
                **_sampling_attributes(self.request),
                **attributes,
            }
        )
        if reason in (FinishReason.ERROR, FinishReason.ABORT):
            span.set_status(Status(StatusCode.ERROR))
        if times is not None:
            _record_phases(span, epoch, times)
        span.end()


def _record_phases(span: Span, epoch: int, times: RequestTimes) -> None:
    """A phase that was not reached has no span; the one before it lasts until the end."""
    starts = {"queue": times.arrival, "prefill": times.scheduled, "decode": times.first_token}
    reached = [(name, start) for name, start in starts.items() if start is not None]
    ends = [start for _, start in reached[1:]] + [times.finished]
    parent = trace.set_span_in_context(span)
    for (name, start), end in zip(reached, ends, strict=True):
        _start(name, parent, epoch, start).end(None if end is None else _nanoseconds(epoch, end))


def _start(name: str, parent: Context, epoch: int, start: float) -> Span:
    return trace.get_tracer("routelm").start_span(name, parent, start_time=_nanoseconds(epoch, start))


def _nanoseconds(epoch: int, seconds: float) -> int:
    return epoch + int(seconds * 10**9)


def _usage_attributes(usage: Usage) -> dict[str, Any]:
    """The number of experts is there where the request or the server chose it."""
    experts = usage.experts_per_token
    return {
        "gen_ai.usage.input_tokens": usage.prompt_tokens,
        "gen_ai.usage.output_tokens": usage.completion_tokens,
        "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens,
        **({} if experts is None else {"routelm.experts_per_token": experts}),
    }


def _sampling_attributes(request: EngineRequest) -> dict[str, Any]:
    sampling = request.sampling
    return {
        "gen_ai.request.max_tokens": sampling.max_tokens,
        "gen_ai.request.temperature": sampling.temperature,
        "gen_ai.request.top_p": sampling.top_p,
    }

"""OpenTelemetry spans of generations, named by its semantic conventions for generative AI. Texts are never in them.

FastAPI makes the span of the HTTP request. A generation is a child of it, and has three children one after another: the
time in the queue, the prefill until the first token, and the decode of the others.
"""

import time
from dataclasses import dataclass
from typing import Any

from opentelemetry import context, trace
from opentelemetry.trace import Span, Status, StatusCode

from server.engine.types import EngineRequest, FinishReason, RequestTimes
from server.generation.stream import GenerationObserver, Usage

_OPERATION = "text_completion"
_NANOSECONDS = 10**9


def with_spans(observer: GenerationObserver, request: EngineRequest, model: str) -> GenerationObserver:
    """The observer of a new generation: also records spans if the span around it is recorded."""
    parent = context.get_current()
    if not trace.get_current_span(parent).is_recording():
        return observer
    span = trace.get_tracer("routelm").start_span(
        f"{_OPERATION} {model}", parent, attributes=_request_attributes(request, model)
    )
    return _SpanObserver(observer, span)


@dataclass(frozen=True, slots=True)
class _SpanObserver:
    """Passes all events on; the last one ends the spans."""

    observer: GenerationObserver
    span: Span

    def rejected(self, reason: str) -> None:
        self.observer.rejected(reason)

    def inter_token(self, seconds: float) -> None:
        self.observer.inter_token(seconds)

    def finished(self, reason: FinishReason, usage: Usage, times: RequestTimes | None) -> None:
        self.observer.finished(reason, usage, times)
        self.span.set_attributes(
            {
                "gen_ai.response.finish_reasons": [reason.value],
                "gen_ai.usage.input_tokens": usage.prompt_tokens,
                "gen_ai.usage.output_tokens": usage.completion_tokens,
                "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens,
            }
        )
        if reason in (FinishReason.ERROR, FinishReason.ABORT):
            self.span.set_status(Status(StatusCode.ERROR))
        if times is not None:
            self._record_phases(times)
        self.span.end()

    def aborted(self) -> None:
        self.observer.aborted()
        self.span.set_attribute("gen_ai.response.finish_reasons", [FinishReason.ABORT.value])
        self.span.end()

    def _record_phases(self, times: RequestTimes) -> None:
        """A phase that was not reached has no span; the one before it lasts until the end."""
        starts = {"queue": times.arrival, "prefill": times.scheduled, "decode": times.first_token}
        reached = [(name, start) for name, start in starts.items() if start is not None]
        ends = [start for _, start in reached[1:]] + [times.finished]
        parent, tracer, epoch = trace.set_span_in_context(self.span), trace.get_tracer("routelm"), _epoch()
        for (name, start), end in zip(reached, ends, strict=True):
            phase = tracer.start_span(name, parent, start_time=epoch + int(start * _NANOSECONDS))
            phase.end(None if end is None else epoch + int(end * _NANOSECONDS))


def _epoch() -> int:
    """Nanoseconds of the wall clock when the monotonic clock was zero."""
    return time.time_ns() - time.monotonic_ns()


def _request_attributes(request: EngineRequest, model: str) -> dict[str, Any]:
    sampling = request.sampling
    return {
        "gen_ai.operation.name": _OPERATION,
        "gen_ai.provider.name": "routelm",
        "gen_ai.request.model": model,
        "routelm.request_id": request.request_id,
        "gen_ai.request.max_tokens": sampling.max_tokens,
        "gen_ai.request.temperature": sampling.temperature,
        "gen_ai.request.top_p": sampling.top_p,
    }

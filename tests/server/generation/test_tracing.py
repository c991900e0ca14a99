"""The spans of a generation, recorded in memory. A real collector: tests/end_to_end/test_traces.py."""

from collections.abc import Iterator
from unittest.mock import Mock

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from server.engine.types import EmbedRequest, FinishReason, GenerateRequest, RequestTimes, SamplingParams
from server.generation.stream import Usage
from server.generation.tracing import with_spans

REQUEST = GenerateRequest("r", (1, 2), SamplingParams(4), arrival_time=1.0)


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[TracerProvider]:
    provider = TracerProvider(shutdown_on_exit=False)
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    yield provider
    provider.shutdown()


@pytest.fixture
def recorded(provider: TracerProvider) -> InMemorySpanExporter:
    exporter = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return exporter


def spans_of(
    provider: TracerProvider,
    exporter: InMemorySpanExporter,
    request: GenerateRequest | EmbedRequest,
    times: RequestTimes | None,
    reason: FinishReason = FinishReason.STOP,
) -> dict[str, ReadableSpan]:
    with provider.get_tracer("test").start_as_current_span("http"):
        observer = with_spans(Mock(), request, "m")
    observer.finished(reason, Usage(2, 3, 1), times)
    return {span.name: span for span in exporter.get_finished_spans()}


def seconds(span: ReadableSpan) -> float:
    assert span.start_time is not None
    assert span.end_time is not None
    return (span.end_time - span.start_time) / 1e9


def test_without_a_recorded_request_nothing_is_done(provider: TracerProvider, recorded: InMemorySpanExporter) -> None:
    observer = Mock()
    assert with_spans(observer, REQUEST, "m") is observer


def test_phases_follow_each_other(provider: TracerProvider, recorded: InMemorySpanExporter) -> None:
    spans = spans_of(provider, recorded, REQUEST, RequestTimes(1.0, 1.5, 3.0, 7.0))
    assert [seconds(spans[name]) for name in ("queue", "prefill", "decode")] == pytest.approx([0.5, 1.5, 4.0], abs=1e-6)
    parent = spans["text_completion m"]
    assert parent.context is not None
    assert {spans[name].parent.span_id for name in ("queue", "prefill", "decode")} == {parent.context.span_id}  # type: ignore[union-attr]
    assert parent.attributes is not None
    assert parent.attributes["gen_ai.usage.output_tokens"] == 3
    assert parent.status.status_code is StatusCode.UNSET


@pytest.mark.parametrize("number", [None, 1])
def test_a_chosen_number_of_experts_is_told(
    number: int | None, provider: TracerProvider, recorded: InMemorySpanExporter
) -> None:
    with provider.get_tracer("test").start_as_current_span("http"):
        observer = with_spans(Mock(), REQUEST, "m")
    observer.finished(FinishReason.STOP, Usage(2, 3, 1, experts_per_token=number), None)
    (span,) = [span for span in recorded.get_finished_spans() if span.name == "text_completion m"]
    assert span.attributes is not None
    assert span.attributes.get("routelm.experts_per_token") == number


def test_a_phase_that_was_not_reached_has_no_span(provider: TracerProvider, recorded: InMemorySpanExporter) -> None:
    spans = spans_of(provider, recorded, REQUEST, RequestTimes(1.0, finished=4.0), FinishReason.ERROR)
    assert set(spans) == {"http", "text_completion m", "queue"}
    assert seconds(spans["queue"]) == pytest.approx(3.0)
    assert spans["text_completion m"].status.status_code is StatusCode.ERROR


def test_vectors_are_another_operation(provider: TracerProvider, recorded: InMemorySpanExporter) -> None:
    assert "embeddings m" in spans_of(provider, recorded, EmbedRequest("e", (1, 2), "mean"), None)


def test_an_aborted_generation_has_a_span(provider: TracerProvider, recorded: InMemorySpanExporter) -> None:
    with provider.get_tracer("test").start_as_current_span("http"):
        observer = with_spans(Mock(), REQUEST, "m")
    observer.aborted()
    (span,) = [span for span in recorded.get_finished_spans() if span.name == "text_completion m"]
    assert span.attributes is not None
    assert span.attributes["gen_ai.response.finish_reasons"] == ("abort",)

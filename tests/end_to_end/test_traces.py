"""A server that sends traces to a collector: what arrives there, and how its times compare with a client's."""

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.deploy.servers import free_port, post, running, wait_until
from tests.end_to_end.collector import Collector, collecting

pytestmark = pytest.mark.slow

TOKENS = 400
REQUESTS = 4  # the first loads modules
PHASES = ["queue", "prefill", "decode"]


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as server:
        yield server


def seconds(span: Span) -> float:
    return (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9


def attributes(span: Span) -> dict[str, object]:
    return {item.key: getattr(item.value, item.value.WhichOneof("value")) for item in span.attributes}


def begin(spans: list[Span], trace_id: bytes) -> list[int]:
    return [span.start_time_unix_nano for span in spans if span.trace_id == trace_id]


def timed_post(url: str, body: dict[str, Any], measured: list[float]) -> Any:
    started = time.monotonic()
    answer = post(url, body)
    measured.append(time.monotonic() - started)
    return answer


def test_a_trace_of_each_request(collector: Collector, tmp_path: Path) -> None:
    """The HTTP request, its generation, and three phases that add up to what the client measures. No texts."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    environment = os.environ | collector.environment | {"PYTHONPATH": str(Path.cwd())}
    command = [sys.executable, "-m", "server", "serve", "--port", str(port), "--log-requests", "--log-format", "json"]
    measured: list[float] = []
    body = {"prompt": "A secret: ", "max_tokens": TOKENS, "ignore_eos": True}
    with running(command, tmp_path / "log", f"{url}/health/ready", environment):
        answer, *_ = [timed_post(f"{url}/v1/completions", body, measured) for _ in range(REQUESTS)]
        wait_until(lambda: len(collector.spans) >= 5 * REQUESTS, 30, "the spans of all requests")

    last = max(collector.spans, key=lambda span: span.end_time_unix_nano).trace_id
    spans = {span.name: span for span in collector.spans if span.trace_id == last}
    http, generation = spans.pop("POST /v1/completions"), spans.pop("text_completion routelm")
    assert list(spans) == PHASES
    assert not http.parent_span_id
    assert generation.parent_span_id == http.span_id
    assert {span.parent_span_id for span in spans.values()} == {generation.span_id}
    # the closest of several: others compute on the machine, too
    phases = [span for span in collector.spans if span.name in PHASES]
    traces = sorted({span.trace_id for span in phases}, key=lambda trace: min(begin(phases, trace)))
    sums = [sum(seconds(span) for span in phases if span.trace_id == trace) for trace in traces]
    assert min(abs(total - time) / time for total, time in zip(sums, measured, strict=True)) < 0.05
    found = attributes(generation)
    assert found["gen_ai.usage.output_tokens"] == TOKENS == answer["usage"]["completion_tokens"]
    assert found["gen_ai.request.model"] == "routelm"

    assert b"secret" not in collector.received
    assert answer["choices"][0]["text"].encode() not in collector.received
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert lines[-1 - [line.get("path") for line in reversed(lines)].index("/v1/completions")]["trace_id"] == last.hex()

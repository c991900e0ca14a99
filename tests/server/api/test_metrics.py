"""GET /metrics after real requests."""

import threading

import pytest
from starlette.testclient import TestClient

from tests.server.applications import MODEL, Server


def series(client: TestClient) -> dict[str, float]:
    lines = client.get("/metrics").text.splitlines()
    return {name: float(number) for name, _, number in (line.rpartition(" ") for line in lines if line[:1] != "#")}


def test_requests_are_counted(client: TestClient, server: Server) -> None:
    server.answer_with("abc")
    client.post("/v1/generate", json={"prompt": "x"})
    client.post("/v1/generate", json={"prompt": "x", "max_tokens": 2, "stream": True})
    client.post("/v1/generate", json={"prompt": "x" * 1000})
    server.engine.occupied = server.engine.capacity
    assert client.post("/v1/generate", json={"prompt": "x"}).status_code == 429
    found = series(client)
    label = f'model_name="{MODEL}"'
    assert found[f'vllm:request_success_total{{finished_reason="stop",{label}}}'] == 1
    assert found[f'vllm:request_success_total{{finished_reason="length",{label}}}'] == 1
    assert found[f"vllm:time_to_first_token_seconds_count{{{label}}}"] == 2
    assert found[f"vllm:inter_token_latency_seconds_count{{{label}}}"] == 4
    assert found[f"vllm:request_generation_tokens_sum{{{label}}}"] == 6
    assert found['routelm:requests_rejected_total{reason="prompt_too_long"}'] == 1
    assert found['routelm:requests_rejected_total{reason="queue_full"}'] == 1
    assert found[f"vllm:num_requests_running{{{label}}}"] == 0
    assert found["process_resident_memory_bytes"] > 0


def answered(client: TestClient) -> dict[str, float]:
    """Requests by status, those without any left out."""
    prefix = "routelm:http_requests_total{code="
    return {name[len(prefix) + 1 : -2]: n for name, n in series(client).items() if name.startswith(prefix) and n}


def test_a_request_counts_once_however_many_generations_it_takes(client: TestClient, server: Server) -> None:
    server.answer_with("abc")
    body = {"text": "It rains. It pours. It snows.", "source_lang": "en", "target_lang": "de"}
    client.post("/v1/translate", json=body)
    client.post("/v1/translate", json={**body, "stream": True})
    found = series(client)
    assert found[f'vllm:request_success_total{{finished_reason="stop",model_name="{MODEL}"}}'] == 6
    assert answered(client) == {"200": 2}


def test_posts_are_counted_by_the_status_of_their_answer(
    client: TestClient, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.get("/health/live")
    client.post("/v1/nothing", json={})
    client.post("/v1/generate", json={"prompt": 1})
    server.engine.occupied = server.engine.capacity
    client.post("/v1/generate", json={"prompt": "x"})
    monkeypatch.setattr(server.service, "start", None)  # a mistake of ours: "NoneType is not callable"
    client.post("/v1/generate", json={"prompt": "x"})
    assert answered(client) == {"404": 1, "400": 1, "429": 1, "500": 1}


def test_what_alerts_divide_is_there_from_the_start(client: TestClient) -> None:
    """A counter that begins with its first event hides that event from rate()."""
    found = series(client)
    assert [found[f'routelm:http_requests_total{{code="{code}"}}'] for code in (200, 429, 500, 503)] == [0, 0, 0, 0]
    assert found[f'vllm:request_success_total{{finished_reason="error",model_name="{MODEL}"}}'] == 0


def test_the_content_type_follows_the_scraper(client: TestClient) -> None:
    assert client.get("/metrics").headers["content-type"].startswith("text/plain; version=")
    response = client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert response.headers["content-type"].startswith("application/openmetrics-text")
    assert response.text.endswith("# EOF\n")


def test_scrapes_are_made_in_a_thread(client: TestClient, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model with many experts has thousands of series."""
    exposition, threads = server.metrics.exposition, list[str]()

    def watched(accept: str) -> tuple[bytes, str]:
        threads.append(threading.current_thread().name)
        return exposition(accept)

    monkeypatch.setattr(server.metrics, "exposition", watched)
    assert series(client)
    assert [name.startswith("asyncio_") for name in threads] == [True]

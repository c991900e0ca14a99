"""GET /metrics after real requests."""

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


def test_the_content_type_follows_the_scraper(client: TestClient) -> None:
    assert client.get("/metrics").headers["content-type"].startswith("text/plain; version=")
    response = client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert response.headers["content-type"].startswith("application/openmetrics-text")
    assert response.text.endswith("# EOF\n")

"""GET /health/live and /health/ready."""

import httpx
import pytest
from starlette.testclient import TestClient

from tests.server.applications import Server


def test_a_healthy_server_is_alive_and_ready(client: TestClient) -> None:
    assert client.get("/health/live").json() == {"status": "alive"}
    for path in ("/health/ready", "/health"):
        response = client.get(path)
        assert (response.status_code, response.json()) == (200, {"status": "ready"})


@pytest.mark.parametrize("path", ["/health", "/health/live", "/health/ready", "/metrics"])
def test_head_tells_the_same_without_a_body(url: str, server: Server, path: str) -> None:
    """Uptime monitors and `wget --spider` ask so."""
    assert httpx.head(url + path, trust_env=False).status_code == 200
    server.engine.healthy = False
    answer = httpx.head(url + path, trust_env=False)
    assert (answer.status_code, answer.content) == (200 if path == "/metrics" else 503, b"")


def test_an_engine_that_keeps_failing_wants_a_restart(client: TestClient, server: Server) -> None:
    server.engine.healthy = False
    for path in ("/health/live", "/health/ready"):
        response = client.get(path)
        assert (response.status_code, response.json()) == (503, {"status": "unhealthy"})


def test_a_draining_server_is_alive_but_not_ready(client: TestClient) -> None:
    client.app.state.drain.begun = True  # type: ignore[attr-defined]
    assert client.get("/health/live").status_code == 200
    response = client.get("/health/ready")
    assert (response.status_code, response.json()) == (503, {"status": "draining"})


def test_new_work_is_refused_while_draining(client: TestClient, server: Server) -> None:
    client.app.state.drain.begun = True  # type: ignore[attr-defined]
    response = client.post("/v1/generate", json={"prompt": "a", "stream": True})
    assert response.status_code == 503
    assert server.engine.submitted == []
    assert 'routelm:requests_rejected_total{reason="draining"} 1.0' in client.get("/metrics").text
    assert response.headers["retry-after"] == "1"
    assert response.json()["error"]["type"] == "service_unavailable"


def test_the_end_of_the_application_closes_the_engine_once(server: Server) -> None:
    with TestClient(server.app()):
        assert server.engine.closed_with == []
    assert server.engine.closed_with == [pytest.approx(server.settings.drain_grace, abs=1)]

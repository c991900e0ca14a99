"""Log lines: one per request if asked for, never with what people wrote."""

import logging

import pytest

from tests.server.applications import client_of, make_server


def lines(caplog: pytest.LogCaptureFixture, *, log_requests: bool) -> list[str]:
    server = make_server(log_requests=log_requests)
    server.answer_with("a secret answer")
    caplog.set_level(logging.INFO)
    with client_of(server) as client:
        good = client.post("/v1/generate", json={"prompt": "a secret prompt"})
        assert client.post("/v1/generate", json={"prompt": "a secret prompt", "stream": True}).status_code == 200
        assert client.post("/v1/generate", json={"prompt": ["a secret prompt"]}).status_code == 400
    assert "secret" not in caplog.text
    found = [record.getMessage() for record in caplog.records if record.name == "server.middleware.request_log"]
    assert not found or good.headers["x-request-id"] in found[0]
    return found


def test_a_line_per_request_without_its_text(caplog: pytest.LogCaptureFixture) -> None:
    found = lines(caplog, log_requests=True)
    assert [line.split()[:3] for line in found] == [
        ["POST", "/v1/generate", "200"],
        ["POST", "/v1/generate", "200"],
        ["POST", "/v1/generate", "400"],
    ]


def test_a_slow_request_is_a_warning_without_being_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    with client_of(make_server(log_slow_requests=1e-9)) as client:
        client.get("/v1/models")
    with client_of(make_server(log_slow_requests=1000.0)) as client:
        client.get("/v1/models")
    (record,) = [record for record in caplog.records if record.name == "server.middleware.request_log"]
    assert record.levelname == "WARNING"
    assert record.getMessage().startswith("slow: GET /v1/models 200 ")


def test_a_path_with_line_ends_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with client_of(make_server(log_requests=True)) as client:
        client.get("/v1/%0a%1b[31mforged")
    (record,) = [record for record in caplog.records if record.name == "server.middleware.request_log"]
    assert record.getMessage().isprintable()
    assert "%0a" in record.getMessage().lower()


def test_no_line_unless_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    assert lines(caplog, log_requests=False) == []

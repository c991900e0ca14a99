"""A client that leaves frees the engine at once, streaming or not. Over a real server: only that one disconnects."""

import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.server.applications import Server, listening, make_server

LONG = {"max_tokens": 300}
REQUESTS: list[tuple[str, dict[str, Any], int]] = [
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]} | LONG, 1),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}], "n": 4} | LONG, 4),
    ("/v1/completions", {"prompt": ["a", "b"]} | LONG, 2),
    ("/v1/translate", {"text": "hi", "source_lang": "en", "target_lang": "zh"} | LONG, 1),
    ("/v1/summarize", {"text": "hi", "method": "generate"} | LONG, 1),
    ("/v1/generate", {"prompt": "hi"} | LONG, 1),
]


def wait_until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.005)


def send(url: str, path: str, body: dict[str, Any]) -> socket.socket:
    """Post a request and leave the connection open."""
    where = urlsplit(url)
    content = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    connection = socket.create_connection((where.hostname, where.port))
    connection.sendall(head.encode() + content)
    return connection


@pytest.fixture
def slow(server: Server) -> Server:
    server.answer_with("x" * 300)
    server.engine.step_seconds = 0.05
    return server


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(("path", "body", "count"), REQUESTS, ids=lambda value: value if isinstance(value, str) else "")
def test_leaving_frees_everything(
    slow: Server, url: str, path: str, body: dict[str, Any], count: int, stream: bool
) -> None:
    connection = send(url, path, body | {"stream": stream})
    wait_until(lambda: slow.engine.running == count)
    if stream:
        assert connection.recv(20).startswith(b"HTTP/1.1 200")
    connection.close()
    left = time.monotonic()
    wait_until(lambda: slow.engine.running == 0)
    assert time.monotonic() - left < 2, "a generation of 15 seconds was not waited for"
    assert len(slow.engine.aborted) == count
    assert f"routelm:requests_aborted_total {count}.0" in httpx.get(f"{url}/metrics", trust_env=False).text


def test_leaving_an_analysis_frees_its_first_requests(slow: Server, url: str) -> None:
    slow.engine.step_seconds = 0.2
    slow.engine.answer = lambda _: [40] * 100
    connection = send(url, "/v1/analyze", {"text": ["a", "b"], "labels": ["x", "y"]})
    wait_until(lambda: len(slow.engine.submitted) >= 2)
    connection.close()
    wait_until(lambda: slow.engine.running == 0)


def test_an_answer_that_is_read_to_its_end_aborts_nothing(server: Server, url: str) -> None:
    server.answer_with("ab")
    for stream in (True, False):
        response = httpx.post(f"{url}/v1/generate", json={"prompt": "hi", "stream": stream}, trust_env=False)
        assert response.status_code == 200
    assert server.engine.aborted == []


def test_others_go_on_when_one_leaves(slow: Server, url: str) -> None:
    slow.engine.step_seconds = 0.01
    stays = send(url, "/v1/generate", {"prompt": "hi", "max_tokens": 50})
    leaves = send(url, "/v1/generate", {"prompt": "hi", "max_tokens": 300})
    wait_until(lambda: slow.engine.running == 2)
    leaves.close()
    answer = b""
    while b"finish_reason" not in answer:
        piece = stays.recv(4096)
        assert piece
        answer += piece
    assert b"x" * 50 in answer
    stays.close()
    wait_until(lambda: slow.engine.running == 0)


def test_a_client_that_never_sends_its_body_is_harmless(server: Server, url: str) -> None:
    where = urlsplit(url)
    with socket.create_connection((where.hostname, where.port)) as connection:
        connection.sendall(b"POST /v1/generate HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
    assert httpx.get(f"{url}/health/ready", trust_env=False).status_code == 200
    assert server.engine.submitted == []


@pytest.mark.parametrize(
    ("path", "content_type", "beginning"),
    [
        (
            "/v1/files",
            "multipart/form-data; boundary=b",
            '--b\r\nContent-Disposition: form-data; name="file"\r\n\r\nhello',
        ),
        ("/v1/generate", "application/json", '{"prompt": "hel'),
    ],
)
def test_leaving_amid_a_body_is_no_fault_of_the_server(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, path: str, content_type: str, beginning: str
) -> None:
    with listening(make_server(batch_dir=tmp_path)) as url:
        where = urlsplit(url)
        with socket.create_connection((where.hostname, where.port)) as connection:
            head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {content_type}\r\nContent-Length: 1000\r\n\r\n"
            connection.sendall((head + beginning).encode())

        def counts() -> list[str]:
            text = httpx.get(f"{url}/metrics", trust_env=False).text
            lines = [line for line in text.splitlines() if line.startswith("routelm:http_requests_total{")]
            return [line for line in lines if not line.endswith(" 0.0")]

        wait_until(lambda: counts() != [])
        assert counts() == ['routelm:http_requests_total{code="499"} 1.0']
    assert list((tmp_path / "files").iterdir()) == []
    assert not [record for record in caplog.records if record.levelname == "ERROR"]

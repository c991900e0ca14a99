"""Priorities, deadlines and cancellation over HTTP."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from server.engine.client.base import DeadlineError
from server.engine.types import EngineRequest
from server.middleware.api_keys import KeyScope, hash_key
from tests.server.applications import Server, client_of, events_of, listening, make_server

CHAT = {"messages": [{"role": "user", "content": "hi"}]}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": {"prompt": "hi"},
    "/v1/generate": {"prompt": "hi"},
    "/v1/translate": {"text": "hi", "source_lang": "en", "target_lang": "de"},
    "/v1/analyze": {"text": "hi", "labels": ["a", "b"]},
}


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    path = tmp_path / "keys.json"
    keys: dict[str, dict[str, Any]] = {
        "plain": {},
        "slow": {"priority": 5},
        "urgent": {"may_set_priority": True},
        "admin": {"scopes": [KeyScope.ADMIN]},
    }
    entries = [{"name": name, "sha256": hash_key(name.encode()), **fields} for name, fields in keys.items()]
    path.write_text(json.dumps({"keys": entries}))
    return path


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


# Priority and tenant


@pytest.mark.parametrize("path", BODIES)
def test_the_key_is_the_tenant_and_says_the_priority(keys_file: Path, path: str) -> None:
    server = make_server(keys_file=str(keys_file))
    with client_of(server) as client:
        assert client.post(path, json=BODIES[path], headers=bearer("slow")).status_code == 200
        assert client.post(path, json=BODIES[path] | {"priority": 7}, headers=bearer("slow")).status_code == 200
    kinds = {(request.scheduling.tenant, request.scheduling.priority) for request in server.engine.submitted}
    assert kinds == {("slow", 5), ("slow", 7)}


@pytest.mark.parametrize(
    ("key", "priority", "status"),
    [("plain", 1, 200), ("plain", 0, 200), ("plain", -1, 403), ("slow", 4, 403), ("urgent", -1000, 200)],
)
def test_only_some_keys_may_be_more_urgent(keys_file: Path, key: str, priority: int, status: int) -> None:
    with client_of(make_server(keys_file=str(keys_file))) as client:
        answer = client.post("/v1/chat/completions", json=CHAT | {"priority": priority}, headers=bearer(key))
    assert answer.status_code == status
    if status == 403:
        assert answer.json()["error"]["param"] == "priority"


def test_without_keys_requests_may_only_be_less_urgent(client: TestClient) -> None:
    assert client.post("/v1/generate", json={"prompt": "hi", "priority": 3}).status_code == 200
    assert client.post("/v1/generate", json={"prompt": "hi", "priority": -3}).status_code == 403
    assert client.post("/v1/generate", json={"prompt": "hi", "priority": 3000}).status_code == 400


# Deadlines


def deadlines(server: Server) -> list[float]:
    found = [request.scheduling.deadline for request in server.engine.submitted]
    return [deadline - time.monotonic() for deadline in found if deadline is not None]


def test_the_smaller_of_field_and_header_is_the_deadline(client: TestClient, server: Server) -> None:
    for field, header in ((50, None), (None, "50"), (50, "90"), (90, "50.0")):
        headers = {"X-Request-Timeout": header} if header else {}
        assert client.post("/v1/chat/completions", json=CHAT | {"timeout": field}, headers=headers).status_code == 200
    assert len(deadlines(server)) == 4
    assert all(40 < seconds <= 50 for seconds in deadlines(server))


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/responses", "/api/chat"])
def test_the_header_works_for_the_other_apis(client: TestClient, server: Server, path: str) -> None:
    bodies: dict[str, dict[str, Any]] = {"/v1/messages": {"max_tokens": 5}, "/v1/responses": {"input": "hi"}}
    body = (CHAT if path != "/v1/responses" else {}) | bodies.get(path, {})
    assert client.post(path, json=body, headers={"X-Request-Timeout": "50"}).status_code == 200
    assert len(deadlines(server)) == 1


@pytest.mark.parametrize("header", ["", "soon", "0", "-1", "nan", "inf", "1e9"])
def test_a_header_that_is_no_time_is_refused(client: TestClient, header: str) -> None:
    answer = client.post("/v1/generate", json={"prompt": "hi"}, headers={"X-Request-Timeout": header})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "X-Request-Timeout"


def test_a_deadline_that_cannot_be_met_is_refused(
    client: TestClient, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(request: EngineRequest, *, follow_up: bool = False) -> None:
        raise DeadlineError(6.2)

    monkeypatch.setattr(server.engine, "submit", late)
    answer = client.post("/v1/generate", json={"prompt": "hi", "timeout": 1})
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "7")
    assert answer.json()["error"]["code"] == "deadline_unreachable"
    text = client.app.state.metrics.exposition("")[0].decode()  # type: ignore[attr-defined]
    assert 'routelm:requests_rejected_total{reason="deadline_unreachable"} 1.0' in text


REASONS: dict[str, tuple[dict[str, Any], Callable[[Any], str], str]] = {
    "/v1/chat/completions": (CHAT, lambda answer: answer["choices"][0]["finish_reason"], "timeout"),
    "/v1/completions": (
        {"prompt": "hi", "max_tokens": 300},
        lambda answer: answer["choices"][0]["finish_reason"],
        "timeout",
    ),
    "/v1/generate": ({"prompt": "hi"}, lambda answer: answer["finish_reason"], "timeout"),
    "/v1/translate": (BODIES["/v1/translate"], lambda answer: answer["translations"][0]["finish_reason"], "timeout"),
    "/v1/messages": (CHAT | {"max_tokens": 300}, lambda answer: answer["stop_reason"], "max_tokens"),
    "/v1/responses": ({"input": "hi"}, lambda answer: answer["status"], "incomplete"),
    "/api/chat": (CHAT | {"stream": False}, lambda answer: answer["done_reason"], "timeout"),
}


@pytest.mark.parametrize("path", REASONS)
def test_an_answer_ends_at_its_deadline_with_the_text_so_far(server: Server, path: str) -> None:
    server.answer_with("x" * 300)
    server.engine.step_seconds = 0.02
    body, reason, expected = REASONS[path]
    with client_of(server) as client:
        answer = client.post(path, json=body, headers={"X-Request-Timeout": "1"})
    assert answer.status_code == 200, answer.text
    assert reason(answer.json()) == expected
    assert "xx" in answer.text
    assert "x" * 200 not in answer.text


def test_scores_that_are_not_complete_at_the_deadline_are_an_error(server: Server) -> None:
    server.engine.step_seconds = 0.5
    with client_of(server) as client:
        answer = client.post("/v1/analyze", json=BODIES["/v1/analyze"] | {"timeout": 0.05})
    assert answer.status_code == 504
    assert answer.json()["error"]["code"] == "deadline_exceeded"


# Cancellation


class Stream:
    """A stream that is read in a thread."""

    def __init__(self, url: str, key: str | None = None, path: str = "/v1/generate", **body: Any) -> None:
        self.id = ""
        self.body = ""
        self._arguments = path, {"prompt": "hi", "stream": True} | body, bearer(key) if key else {}
        self._url = url
        self._thread = threading.Thread(target=self._read)
        self._thread.start()
        end = time.monotonic() + 10
        while not self.body:
            assert time.monotonic() < end
            time.sleep(0.01)

    def _read(self) -> None:
        path, body, headers = self._arguments
        with httpx.stream("POST", self._url + path, json=body, headers=headers, trust_env=False) as response:
            self.id = response.headers["x-request-id"]
            for text in response.iter_text():
                self.body += text

    def end(self) -> list[dict[str, Any]]:
        self._thread.join(10)
        return events_of(self.body)


@pytest.fixture
def slow(keys_file: Path) -> Server:
    server = make_server(keys_file=str(keys_file))
    server.answer_with("x" * 300)
    server.engine.step_seconds = 0.02
    return server


@pytest.fixture
def url(slow: Server) -> Iterator[str]:
    with listening(slow) as url:
        yield url


def delete(url: str, request_id: str, key: str) -> int:
    return httpx.delete(f"{url}/v1/requests/{request_id}", headers=bearer(key), trust_env=False).status_code


def test_a_cancelled_request_ends_with_the_text_so_far(url: str, slow: Server) -> None:
    stream = Stream(url, "plain")
    assert delete(url, f"gen-{stream.id}", "plain") == 200
    last = stream.end()[-1]
    assert (last["object"], last["finish_reason"]) == ("generation.done", "abort")
    assert 0 < last["usage"]["completion_tokens"] < 300
    assert slow.engine.running == 0
    assert delete(url, stream.id, "plain") == 404


def test_only_its_own_key_and_admin_may_cancel(url: str) -> None:
    stream = Stream(url, "plain")
    assert delete(url, stream.id, "slow") == 404
    assert delete(url, "0" * 32, "plain") == 404
    assert delete(url, "x", "plain") == 404
    assert delete(url, stream.id, "admin") == 200
    assert stream.end()[-1]["finish_reason"] == "abort"


def test_cancelling_ends_all_parts_of_a_text(url: str, slow: Server) -> None:
    text = "It rains. " * 40
    body = {"prompt": None, "text": text, "source_lang": "en", "target_lang": "de"}
    stream = Stream(url, "plain", "/v1/translate", **body)
    assert delete(url, stream.id, "plain") == 200
    parts = {request.request_id for request in slow.engine.submitted}
    assert set(slow.engine.aborted) == parts
    assert len(parts) > 1
    assert stream.end()[-1]["finish_reason"] == "abort"
    assert {request.request_id for request in slow.engine.submitted} == parts  # no part was started afterwards


def test_no_running_request_is_remembered_after_its_end(server: Server) -> None:
    with client_of(server) as client:
        client.post("/v1/generate", json={"prompt": "hi"})
        client.post("/v1/generate", json={"prompt": 5})
        assert client.app.state.running_requests == {}  # type: ignore[attr-defined]

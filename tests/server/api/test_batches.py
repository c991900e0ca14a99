"""/v1/files and /v1/batches: OpenAI's shapes, limits, keys, and answers equal to those of the endpoints."""

import asyncio
import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from server.api.dependencies import BATCH_PRIORITY
from server.api.in_process_executor import InProcessExecutor
from server.batches.executor import BatchResponse
from tests.server.applications import Server, client_of, make_server

BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 8, "user": "me"},
    "/v1/completions": {"prompt": "hello", "max_tokens": 4, "stream": True},
    "/v1/responses": {"input": "hello"},
    "/v1/translate": {"text": "Good day. It rains.", "target_lang": "de"},
    "/v1/summarize": {"text": "It rained all day. Nobody came.", "method": "generate"},
    "/v1/analyze": {"text": "hello", "labels": ["good", "bad"]},
    "/v1/generate": {"prompt": "hello", "max_tokens": 8, "temperature": 0.5, "seed": 3},
    "/v1/embeddings": {"input": "hello"},  # 400: the checkpoint is not made for it
}
EXPIRING = {"purpose": "batch", "expires_after[anchor]": "created_at"}
VARIABLE = {"id", "created", "created_at", "completed_at"}


@pytest.fixture
def server(tmp_path: Path) -> Server:
    return make_server(batch_dir=tmp_path / "batches", batch_file_bytes=5_000_000)


@pytest.fixture
def client(server: Server) -> Iterator[TestClient]:
    with client_of(server) as client:
        yield client


def upload(client: TestClient, content: bytes, **changes: Any) -> Any:
    form: dict[str, Any] = {"data": {"purpose": "batch"}, "files": {"file": ("in.jsonl", content)}} | changes
    return client.post("/v1/files", **form)


def line(custom_id: str, url: str, body: Any) -> bytes:
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": url, "body": body}).encode() + b"\n"


def create(client: TestClient, content: bytes, endpoint: str, **fields: Any) -> dict[str, Any]:
    file_id = upload(client, content).json()["id"]
    body = {"input_file_id": file_id, "endpoint": endpoint, "completion_window": "24h"} | fields
    answer: dict[str, Any] = client.post("/v1/batches", json=body).raise_for_status().json()
    return answer


def finished(client: TestClient, batch_id: str) -> dict[str, Any]:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        batch: dict[str, Any] = client.get(f"/v1/batches/{batch_id}").json()
        if batch["status"] in ("completed", "failed", "cancelled"):
            return batch
        time.sleep(0.01)
    raise AssertionError(batch)


def lines_of(client: TestClient, file_id: str) -> list[dict[str, Any]]:
    return [json.loads(text) for text in client.get(f"/v1/files/{file_id}/content").text.splitlines()]


def without_ids(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_ids(inner) for name, inner in value.items() if name not in VARIABLE}
    return [without_ids(inner) for inner in value] if isinstance(value, list) else value


@pytest.mark.parametrize("url", BODIES)
def test_a_batch_answers_as_the_endpoint_does(client: TestClient, server: Server, url: str) -> None:
    body = {name: value for name, value in BODIES[url].items() if name != "stream"}
    direct = client.post(url, json=body)
    before = len(server.engine.submitted)
    batch = finished(
        client, create(client, line("a", url, BODIES[url]) + line("b", url, {"max_tokens": -7}), url)["id"]
    )
    assert batch["status"] == "completed"
    works = direct.status_code == 200
    assert batch["request_counts"] == {"total": 2, "completed": int(works), "failed": 2 - works}
    refused = lines_of(client, batch["error_file_id"])
    answers = (lines_of(client, batch["output_file_id"]) if works else []) + refused
    assert [answer["custom_id"] for answer in answers] == ["a", "b"]
    response = answers[0]["response"]
    assert response["status_code"] == direct.status_code
    assert without_ids(response["body"]) == without_ids(direct.json())
    assert answers[1]["response"]["status_code"] == 400
    assert answers[1]["response"]["body"]["error"]["type"] == "invalid_request_error"
    priorities = {request.scheduling.priority for request in server.engine.submitted[before:]}
    assert priorities <= {BATCH_PRIORITY}
    assert priorities or not works


def test_the_shapes_of_files(client: TestClient) -> None:
    content = line("a", "/v1/generate", {"prompt": "x"})
    file = upload(client, content).json()
    assert file == {
        "id": file["id"], "object": "file", "bytes": len(content), "created_at": file["created_at"],
        "expires_at": None, "filename": "in.jsonl", "purpose": "batch", "status": "processed",
    }  # fmt: skip
    assert client.get(f"/v1/files/{file['id']}").json() == file
    assert client.get(f"/v1/files/{file['id']}/content").content == content
    listed = client.get("/v1/files").json()
    assert listed == {
        "object": "list", "data": [file], "first_id": file["id"], "last_id": file["id"], "has_more": False,
    }  # fmt: skip
    assert client.get("/v1/files?purpose=batch_output").json()["data"] == []
    assert client.delete(f"/v1/files/{file['id']}").json() == {"id": file["id"], "object": "file", "deleted": True}
    for method, path in (("GET", ""), ("GET", "/content"), ("DELETE", "")):
        assert client.request(method, f"/v1/files/{file['id']}{path}").status_code == 404


def test_a_file_that_is_deleted_while_it_is_looked_up_is_not_found(client: TestClient, tmp_path: Path) -> None:
    file_id = upload(client, line("a", "/v1/generate", {"prompt": "x"})).json()["id"]
    for path in (tmp_path / "batches").rglob(f"{file_id}.jsonl"):
        path.unlink()
    assert client.get(f"/v1/files/{file_id}/content").status_code == 404


def test_pages(client: TestClient) -> None:
    ids = [upload(client, b"x").json()["id"] for _ in range(5)][::-1]
    page = client.get("/v1/files?limit=2").json()
    assert ([file["id"] for file in page["data"]], page["has_more"]) == (ids[:2], True)
    page = client.get(f"/v1/files?limit=10&after={ids[1]}").json()
    assert ([file["id"] for file in page["data"]], page["has_more"]) == (ids[2:], False)
    assert [file["id"] for file in client.get("/v1/files?order=asc&limit=1").json()["data"]] == ids[-1:]
    assert client.get("/v1/files?after=nothing").json()["error"]["param"] == "after"
    assert client.get("/v1/files?limit=0").status_code == 400


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {}}, "purpose"),
        ({"data": {"purpose": "fine-tune"}}, "purpose"),
        ({"files": {"other": ("x", b"x")}}, "no file"),
        ({"data": EXPIRING | {"expires_after[seconds]": "5"}}, "3600"),
        ({"data": {"purpose": "batch", "expires_after[seconds]": "5000"}}, "anchor"),
        ({"data": EXPIRING | {"expires_after[seconds]": "5000".zfill(20) + "9" * 30}}, "3600"),
        ({"data": {"purpose": "x" * 5000}}, "4096 bytes"),
        ({"data": {f"f{number}": "x" for number in range(50)}}, "16 fields"),
        ({"files": [("file", ("a", b"x")), ("file", ("b", b"x"))]}, "one file"),
    ],
)
def test_forms_that_are_refused(client: TestClient, changes: dict[str, Any], message: str) -> None:
    answer = upload(client, b"x", **changes)
    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"]
    assert client.get("/v1/files").json()["data"] == []


@pytest.mark.parametrize(
    ("content_type", "content", "message"),
    [
        ("text/plain", b"x", "multipart/form-data"),
        ("multipart/form-data", b"x", "multipart/form-data"),
        ("multipart/form-data; boundary=b", b"x", "cannot be read"),
        ("multipart/form-data; boundary=b", b"--b\r\n", "ends"),
        (f"multipart/form-data; boundary={'b' * 999}", b"", "cannot be read"),
        ("multipart/form-data; boundary=b", b"--b\r\nX: " + b"y" * 9999, "cannot be read"),
    ],
)
def test_bodies_that_are_no_forms(client: TestClient, content_type: str, content: bytes, message: str) -> None:
    answer = client.post("/v1/files", content=content, headers={"Content-Type": content_type})
    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"]


def test_an_upload_may_be_larger_than_other_bodies(client: TestClient, server: Server) -> None:
    assert upload(client, b"x" * (server.settings.max_body_bytes + 1)).json()["bytes"] > server.settings.max_body_bytes
    answer = upload(client, b"x" * 5_000_001)
    assert answer.status_code == 413
    assert "5000000 bytes" in answer.json()["error"]["message"]
    assert upload(client, b"x" * 6_000_000).status_code == 413  # by its Content-Length
    assert client.post("/v1/generate", json={"prompt": "x" * 2**21}).status_code == 413
    answer = client.post("/files/", data={"purpose": "batch"}, files={"file": ("x", b"x" * 3_000_000)})
    assert answer.status_code == 200  # the other spelling of the path


def test_the_shape_of_a_batch(client: TestClient) -> None:
    batch = create(client, line("a", "/v1/generate", {"prompt": "x"}), "/v1/generate", metadata={"for": "me"})
    assert batch["object"] == "batch"
    assert batch["metadata"] == {"for": "me"}
    assert batch["expires_at"] - batch["created_at"] == 86_400
    ended = finished(client, batch["id"])
    assert ended["completed_at"] >= ended["in_progress_at"] >= batch["created_at"]
    assert ended["errors"] is ended["error_file_id"] is None
    assert client.get("/v1/batches").json()["data"] == [ended]
    answer = client.post(f"/v1/batches/{batch['id']}/cancel")
    assert answer.status_code == 409
    assert "completed" in answer.json()["error"]["message"]


def test_a_batch_that_cannot_be_answered_fails(client: TestClient) -> None:
    batch = finished(client, create(client, b'{"custom_id": 7}\n', "/v1/generate")["id"])
    assert batch["status"] == "failed"
    (error,) = batch["errors"]["data"]
    assert (error["line"], error["param"], error["code"]) == (1, "custom_id", "invalid_custom_id")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("endpoint", "/v1/tokenize"),
        ("completion_window", "15d"),
        ("completion_window", "soon"),
        ("completion_window", "1٣h"),  # an Arabic digit
        ("completion_window", "99999999999999h"),
        ("input_file_id", 7),
        ("metadata", {str(number): "x" for number in range(17)}),
        ("metadata", {"x": "y" * 513}),
        ("output_expires_after", {"anchor": "created_at", "seconds": 5}),
    ],
)
def test_fields_that_are_refused(client: TestClient, field: str, value: Any) -> None:
    file_id = upload(client, b"x").json()["id"]
    body = {"input_file_id": file_id, "endpoint": "/v1/generate", "completion_window": "24h", field: value}
    answer = client.post("/v1/batches", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"].startswith(field)


def test_ignored_fields_are_named(client: TestClient) -> None:
    file_id = upload(client, b"x").json()["id"]
    body = {"input_file_id": file_id, "endpoint": "/v1/generate", "completion_window": "24h"}
    assert "X-RouteLM-Warnings" not in client.post("/v1/batches", json=body).headers
    assert "unknown" in client.post("/v1/batches", json=body | {"unknown": 1}).headers["X-RouteLM-Warnings"]


def test_what_does_not_exist(client: TestClient) -> None:
    body = {"input_file_id": "file-x", "endpoint": "/v1/generate", "completion_window": "24h"}
    assert client.post("/v1/batches", json=body).status_code == 404
    assert client.get("/v1/batches/batch_x").status_code == 404
    assert client.post("/v1/batches/batch_x/cancel").status_code == 404


def test_without_a_directory_there_are_no_batches() -> None:
    with client_of(make_server()) as client:
        for answer in (client.get("/v1/files"), client.get("/v1/batches"), upload(client, b"x")):
            assert answer.status_code == 404
            assert "--batch-dir" in answer.json()["error"]["message"]


def test_rows_count_neither_as_http_requests_nor_in_the_log(client: TestClient) -> None:
    before = client.get("/metrics").text
    batch = create(client, b"".join(line(str(n), "/v1/generate", {"prompt": "x"}) for n in range(5)), "/v1/generate")
    finished(client, batch["id"])

    def count(text: str, name: str) -> float:
        return sum(float(found.split()[-1]) for found in text.splitlines() if found.startswith(name))

    after = client.get("/metrics").text
    assert count(after, "routelm:http_requests_total") - count(before, "routelm:http_requests_total") == 2
    assert count(after, "vllm:generation_tokens_total") > count(before, "vllm:generation_tokens_total")


# Keys


def keys_file(path: Path, **limits: Any) -> Path:
    keys = [
        {"name": name, "sha256": hashlib.sha256(name.encode()).hexdigest(), "scopes": scopes} | limits.get(name, {})
        for name, scopes in (("ann", ["batches", "inference"]), ("bob", ["batches"]), ("eve", ["inference"]))
    ]
    path.write_text(json.dumps({"keys": keys}))
    return path


def as_key(client: TestClient, name: str) -> TestClient:
    client.headers["Authorization"] = f"Bearer {name}"
    return client


def test_files_and_batches_belong_to_their_key(tmp_path: Path) -> None:
    keys = keys_file(tmp_path / "keys.json", ann={"priority": 5})
    server = make_server(batch_dir=tmp_path / "batches", keys_file=keys)
    with client_of(server) as client:
        batch = create(as_key(client, "ann"), line("a", "/v1/generate", {"prompt": "x"}), "/v1/generate")
        ended = finished(client, batch["id"])
        assert ended["status"] == "completed"
        assert server.engine.submitted[-1].scheduling.priority == BATCH_PRIORITY + 5
        as_key(client, "bob")
        assert client.get("/v1/files").json()["data"] == client.get("/v1/batches").json()["data"] == []
        for path in (f"/v1/batches/{batch['id']}", f"/v1/files/{ended['output_file_id']}/content"):
            assert client.get(path).status_code == 404
        assert client.post(f"/v1/batches/{batch['id']}/cancel").status_code == 404
        assert as_key(client, "eve").get("/v1/files").status_code == 403


def test_requests_have_the_scopes_and_limits_of_their_key(tmp_path: Path) -> None:
    server = make_server(keys_file=keys_file(tmp_path / "keys.json", ann={"requests_per_minute": 1}))
    with client_of(server) as client:
        executor = InProcessExecutor(cast(FastAPI, client.app))

        def ask(owner: str) -> BatchResponse:
            return asyncio.run(executor(owner, "/v1/tokenize", b'{"prompt": "x"}'))

        assert [ask("ann").status, ask("bob").status] == [200, 200]
        limited, gone, forbidden, without = ask("ann"), ask("nobody"), ask("eve"), ask("")
    assert (limited.status, limited.retry_after is not None) == (429, True)
    assert (gone.status, gone.retry_after) == (401, None)
    assert "not in use any more" in json.loads(gone.body)["error"]["message"]
    assert without.status == 401
    assert "had no API keys" in json.loads(without.body)["error"]["message"]
    assert forbidden.status == 403
    assert "scope batches" in json.loads(forbidden.body)["error"]["message"]

"""Which bodies are read: up to a size, with and without a Content-Length, and not compressed."""

import gzip
from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from tests.server.applications import client_of, make_server

LIMIT = 200


@pytest.fixture
def small() -> Iterator[TestClient]:
    with client_of(make_server(max_body_bytes=LIMIT)) as client:
        yield client


def body(size: int) -> bytes:
    empty = b'{"prompt": "", "max_tokens": 1}'
    return empty.replace(b'""', b'"' + b"a" * (size - len(empty)) + b'"')


def pieces(whole: bytes) -> Iterator[bytes]:
    for start in range(0, len(whole), 50):
        yield whole[start : start + 50]


@pytest.mark.parametrize("size", [LIMIT, LIMIT + 1])
@pytest.mark.parametrize("chunked", [True, False])
def test_a_body_up_to_the_limit_is_read(small: TestClient, size: int, chunked: bool) -> None:
    content = body(size)
    assert len(content) == size
    headers = {"Content-Type": "application/json"}
    response = small.post("/v1/generate", content=pieces(content) if chunked else content, headers=headers)
    assert response.status_code == (200 if size <= LIMIT else 413), response.text
    if size > LIMIT:
        assert response.json()["error"]["code"] == "body_too_large"
        assert response.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(("encoding", "status"), [("gzip", 415), ("br", 415), ("identity", 200), ("Identity", 200)])
def test_a_compressed_body_is_refused_by_name(small: TestClient, encoding: str, status: int) -> None:
    plain = body(100)
    content = gzip.compress(plain) if status == 415 else plain
    headers = {"Content-Type": "application/json", "Content-Encoding": encoding}
    response = small.post("/v1/generate", content=content, headers=headers)
    assert response.status_code == status
    if status == 415:
        error = response.json()["error"]
        assert error["code"] == "unsupported_content_encoding"
        assert f"encoded with {encoding}: send it without Content-Encoding" in error["message"]

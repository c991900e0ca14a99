"""An application with a fake engine: by itself, in process, and behind a real uvicorn."""

from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from tests.server.applications import Server, client_of, listening, make_server


@pytest.fixture
def server() -> Server:
    return make_server()


@pytest.fixture
def client(server: Server) -> Iterator[TestClient]:
    with client_of(server) as client:
        yield client


@pytest.fixture
def url(server: Server) -> Iterator[str]:
    with listening(server) as url:
        yield url

"""GET /docs and /openapi.json."""

import re
from collections.abc import Iterator
from html import escape

import pytest
from starlette.testclient import TestClient

from server.api import ROUTERS
from server.api.compatibility import FOREIGN_FIELDS
from tests.server.applications import client_of, make_server


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    """One application for all: its schema takes a second to make, and is made once."""
    with client_of(make_server()) as client:
        yield client


def test_the_page_shows_every_endpoint_and_needs_no_network(client: TestClient) -> None:
    response = client.get("/docs")
    assert response.headers["content-type"].startswith("text/html")
    for path in client.get("/openapi.json").json()["paths"]:
        assert path in response.text
    assert "temperature" in response.text
    assert not re.search(r"(?:src|href)=['\"]?(?:https?:)?//", response.text)


def test_the_schema_describes_bodies_and_answers(client: TestClient) -> None:
    schema = client.get("/openapi.json").json()
    chat = schema["paths"]["/v1/chat/completions"]["post"]
    body = chat["requestBody"]["content"]["application/json"]["schema"]
    assert body == {"$ref": "#/components/schemas/ChatCompletionRequest"}
    assert chat["responses"]["200"]["content"]["application/json"]["schema"]["$ref"].endswith("/ChatCompletion")
    temperature = schema["components"]["schemas"]["ChatCompletionRequest"]["properties"]["temperature"]
    number, null = temperature["anyOf"]
    assert {"type": "number", "minimum": 0.0, "maximum": 5.0}.items() <= number.items()
    assert null == {"type": "null"}


def test_the_page_tells_the_fields_of_messages_defaults_and_errors(client: TestClient) -> None:
    page = client.get("/docs").text
    for text in ("messages[].role", "stream_options.include_usage", "default: true", "-1: as many as the context"):
        assert text in page
    assert "`" not in page
    assert "e+" not in page.replace("9.22e+18", "")
    assert "width=device-width" in page


def test_the_page_tells_every_field_of_other_servers(client: TestClient) -> None:
    page = client.get("/docs").text
    for name, field in FOREIGN_FIELDS.items():
        assert f"<code>{name}</code>" in page
        assert escape(field.refusal or "") in page


def test_every_router_is_in_the_application(client: TestClient) -> None:
    served = set(client.get("/openapi.json").json()["paths"]) | {"/", "/docs", "/openapi.json", "/health"}
    served |= {"/page", "/page/{name}"}
    assert {route.path_format for router in ROUTERS for route in router.routes} == served  # type: ignore[attr-defined]

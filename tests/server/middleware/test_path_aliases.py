"""Paths with a slash at the end and without /v1."""

import json

import pytest
from starlette.testclient import TestClient

from tests.server.applications import MODEL, client_of, make_server

CHAT = {"messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models/",
        "/models",
        "/models/",
        f"/models/{MODEL}",
        "/health/live/",
        "/docs/",
        "/metrics/",
        "/version/",
        "//",
    ],
)
def test_other_spellings_of_a_get(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 200


@pytest.mark.parametrize("path", ["/chat/completions", "/v1/chat/completions/", "/chat/completions/"])
def test_other_spellings_of_chat(client: TestClient, path: str) -> None:
    assert client.post(path, json=CHAT).json()["object"] == "chat.completion"


@pytest.mark.parametrize("path", ["/v2/models", "/v1/version", "/chatter/completions", "/v1/v1/models", "/openapi"])
def test_what_is_not_there_is_not_found(client: TestClient, path: str) -> None:
    response = client.get(path)
    assert response.status_code == 404
    assert path in response.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/models", "/v1/models/", "/tokenizer_info", "/props", "/", "/health/live/x", "//"])
def test_no_spelling_is_open_without_the_key(path: str) -> None:
    with client_of(make_server(api_key="secret")) as client:
        assert client.get(path).status_code == 401


def test_json_that_curl_sends_as_a_form_to_ollamas_paths(client: TestClient) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    body = json.dumps(CHAT | {"model": MODEL, "stream": False})
    assert client.post("/api/chat", content=body, headers=form).status_code == 200
    page = form | {"Origin": "http://elsewhere.example"}
    assert client.post("/api/chat", content=body, headers=page).status_code == 400
    assert client.post("/v1/chat/completions", content=body, headers=form).status_code == 400

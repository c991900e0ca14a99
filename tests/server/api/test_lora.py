"""LoRA adapters at the doors: a request's model chooses one, and lists name them."""

import pytest
from starlette.testclient import TestClient

from tests.server.applications import MODEL, Server

ADAPTERS = ("german", "legal")


@pytest.fixture(autouse=True)
def adapters(server: Server) -> None:
    server.service.adapters = ADAPTERS


def test_models_lists_adapters_with_their_parent(client: TestClient) -> None:
    cards = client.get("/v1/models").json()["data"]
    assert [(card["id"], card["parent"]) for card in cards] == [(MODEL, None), ("german", MODEL), ("legal", MODEL)]
    assert client.get("/v1/models/legal").json() == cards[2]


def test_ollama_lists_adapters_with_their_parent(client: TestClient) -> None:
    for path in ("/api/tags", "/api/ps"):
        found = client.get(path).json()["models"]
        assert [(m["name"], m["details"]["parent_model"]) for m in found] == [
            (MODEL, ""), ("german", MODEL), ("legal", MODEL),
        ]  # fmt: skip
        assert len({m["digest"] for m in found}) == len(found)
    assert client.post("/api/show", json={"model": "legal:latest"}).json()["details"]["parent_model"] == MODEL


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hello"}]}),
        ("/v1/completions", {"prompt": "Hello"}),
        ("/v1/messages", {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 5}),
        ("/v1/responses", {"input": "Hello"}),
        ("/v1/translate", {"text": "Hello", "source_lang": "en", "target_lang": "de"}),
        ("/v1/summarize", {"text": "Hello. It is late."}),
        ("/v1/generate", {"prompt": "Hello"}),
        ("/api/chat", {"messages": [{"role": "user", "content": "Hello"}], "stream": False}),
        ("/api/generate", {"prompt": "Hello", "stream": False}),
    ],
)
def test_the_model_of_a_request_chooses_its_adapter(
    client: TestClient, server: Server, path: str, body: dict[str, object]
) -> None:
    for model, adapter in ((MODEL, None), ("german", "german"), ("legal", "legal")):
        answer = client.post(path, json={**body, "model": model})
        assert answer.status_code == 200, answer.text
        assert answer.json().get("model", model) == model
        assert server.engine.submitted[-1].adapter == adapter


def test_an_unknown_adapter_is_not_found_and_the_known_ones_are_named(client: TestClient) -> None:
    answer = client.post("/v1/completions", json={"prompt": "Hello", "model": "french"})
    assert answer.status_code == 404
    assert "'legal'" in answer.json()["error"]["message"]

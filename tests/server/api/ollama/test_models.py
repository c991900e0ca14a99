"""The served model in Ollama's lists."""

from starlette.testclient import TestClient

from tests.server.applications import MODEL, Server


def test_the_model_is_listed_and_loaded(client: TestClient) -> None:
    (listed,) = client.get("/api/tags").json()["models"]
    (running,) = client.get("/api/ps").json()["models"]
    assert listed["name"] == listed["model"] == MODEL
    assert len(listed["digest"]) == 64
    assert running.items() >= listed.items()
    assert (running["context_length"], running["expires_at"]) == (400, "9999-12-31T23:59:59.999999Z")


def test_the_version_is_one_that_clients_accept(client: TestClient) -> None:
    major, minor, _ = client.get("/api/version").json()["version"].split(".")
    assert (int(major), int(minor)) >= (0, 6)  # the least that Copilot takes


def test_a_model_is_described(client: TestClient, server: Server) -> None:
    shown = client.post("/api/show", json={"model": MODEL + ":latest", "verbose": True}).json()
    assert shown["template"] == server.service.chat_template.source  # type: ignore[union-attr]
    assert shown["model_info"]["unknown.context_length"] == 400
    assert shown["capabilities"][0] == "completion"
    assert client.post("/api/show", json={"model": "other"}).status_code == 404

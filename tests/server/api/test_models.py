"""GET /v1/models."""

from starlette.testclient import TestClient

from model.loading.quality import ExpertsRow, Quality, TaskScore
from model.text.task_prompts import InstructionPrompts
from tests.server.applications import MAX_MODEL_LEN, MODEL, Server


def test_the_one_model(client: TestClient) -> None:
    answer = client.get("/v1/models").json()
    [card] = answer["data"]
    assert answer["object"] == "list"
    assert (card["id"], card["object"], card["max_model_len"]) == (MODEL, "model", MAX_MODEL_LEN)
    assert client.get(f"/v1/models/{MODEL}").json() == card


def test_what_the_model_was_trained_for(client: TestClient, server: Server) -> None:
    [card] = client.get("/v1/models").json()["data"]
    assert card["native_tasks"] == ["translate", "summarize", "chat", "generate", "analyze"]
    assert "en-zh" in card["translation_pairs"]
    assert "de-fr" not in card["translation_pairs"]
    server.service.prompts = InstructionPrompts()
    [card] = client.get("/v1/models").json()["data"]
    assert (card["native_tasks"], card["translation_pairs"]) == ([], None)


def test_what_the_model_is_not_good_at(client: TestClient, server: Server) -> None:
    assert client.get("/v1/models").json()["data"][0]["warnings"] == []
    server.service.quality = Quality(
        (
            TaskScore("summarize", "news-en", "en", "ROUGE-1", 9.8, "first sentence", 21.9, better=False),
            TaskScore("analyze", "reviews", "en", "accuracy", 90.0, "commonest label", 50.0, better=True),
        )
    )
    [warning] = client.get("/v1/models").json()["data"][0]["warnings"]
    assert warning.startswith("low_quality.summarize: ")
    assert "news-en (ROUGE-1 9.8, first sentence 21.9)" in warning
    assert client.get(f"/v1/models/{MODEL}").json()["warnings"] == [warning]


def test_what_fewer_experts_cost(client: TestClient, server: Server) -> None:
    assert client.get(f"/v1/models/{MODEL}").json()["quality_by_experts_per_token"] == []
    server.service.quality = Quality(experts=(ExpertsRow(1, {"translate BLEU": 33.9}, seconds=32.0),))
    [row] = client.get(f"/v1/models/{MODEL}").json()["quality_by_experts_per_token"]
    assert row == {"experts_per_token": 1, "scores": {"translate BLEU": 33.9}}


def test_a_model_with_several_names(client: TestClient, server: Server) -> None:
    server.service.served_names = (MODEL, "gpt-4o")
    assert [card["id"] for card in client.get("/v1/models").json()["data"]] == [MODEL, "gpt-4o"]
    assert client.get("/v1/models/gpt-4o").json()["id"] == "gpt-4o"
    body = {"messages": [{"role": "user", "content": "a"}]}
    assert client.post("/v1/chat/completions", json=body | {"model": "gpt-4o"}).json()["model"] == "gpt-4o"
    assert client.post("/v1/chat/completions", json=body).json()["model"] == MODEL
    assert "'test-model', 'gpt-4o'" in client.get("/v1/models/other").json()["error"]["message"]


def test_head(client: TestClient) -> None:
    assert client.head("/v1/models").status_code == 200
    assert client.head(f"/v1/models/{MODEL}").status_code == 200
    assert client.head("/v1/models/other").status_code == 404


def test_other_models_are_not_found(client: TestClient) -> None:
    for response in (
        client.get("/v1/models/some/other"),
        client.post("/v1/generate", json={"prompt": "a", "model": "some/other"}),
        client.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "a"}], "model": "x"}),
    ):
        assert response.status_code == 404
        assert response.json()["error"]["code"] == "model_not_found"
        assert response.json()["error"]["param"] == "model"

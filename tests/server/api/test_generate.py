"""POST /v1/generate."""

from starlette.testclient import TestClient

from tests.server.applications import Server, events_of


def test_a_text_goes_on_without_chat_form(client: TestClient, server: Server) -> None:
    server.answer_with(" a time")
    answer = client.post("/v1/generate", json={"prompt": "once upon"}).json()
    assert (answer["object"], answer["text"], answer["finish_reason"]) == ("generation", " a time", "stop")
    [request] = server.engine.submitted
    assert request.prompt_token_ids == (0, *server.tokenizer.encode("once upon"))
    assert request.sampling.max_tokens == 256


def test_a_stream(client: TestClient, server: Server) -> None:
    server.answer_with("ab")
    *chunks, done = events_of(client.post("/v1/generate", json={"prompt": "", "stream": True}).text)
    assert [(chunk["object"], chunk["delta"]) for chunk in chunks] == [
        ("generation.chunk", "a"),
        ("generation.chunk", "b"),
    ]
    assert set(done) == {"object", "id", "model", "finish_reason", "usage"}
    assert done["object"] == "generation.done"


def test_a_prompt_that_is_too_long_names_limit_and_length(client: TestClient, server: Server) -> None:
    response = client.post("/v1/generate", json={"prompt": "a" * 1000})
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert "1001 tokens" in error["message"]
    assert f"{server.service.max_model_len} tokens" in error["message"]

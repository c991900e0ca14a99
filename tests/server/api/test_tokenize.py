"""POST /v1/tokenize and /v1/detokenize."""

import threading

import pytest
from starlette.testclient import TestClient

from server.generation.run_in_thread import LONG_TEXT
from tests.server.applications import MAX_MODEL_LEN, Server


def test_there_and_back(client: TestClient, server: Server) -> None:
    answer = client.post("/v1/tokenize", json={"prompt": "größer 你好"}).json()
    assert answer["tokens"] == server.tokenizer.encode("größer 你好")
    assert (answer["count"], answer["max_model_len"]) == (len(answer["tokens"]), MAX_MODEL_LEN)
    back = client.post("/v1/detokenize", json={"tokens": answer["tokens"]}).json()
    assert back == {"prompt": "größer 你好"}


@pytest.mark.parametrize(("path", "body"), [("/v1/tokenize", {"prompt": "a"}), ("/v1/detokenize", {"tokens": [40]})])
def test_ignored_fields_are_named(client: TestClient, path: str, body: dict[str, object]) -> None:
    assert "warnings" not in client.post(path, json=body).json()
    answer = client.post(path, json=body | {"unknown": 1})
    assert answer.json()["warnings"] == ["unknown: ignored, it has no effect here."]
    assert "unknown" in answer.headers["X-RouteLM-Warnings"]


def test_special_tokens_are_tokens_as_in_completions_or_text(client: TestClient, server: Server) -> None:
    parsed = client.post("/v1/tokenize", json={"prompt": "a<|im_end|>", "return_token_strs": True}).json()
    assert parsed["tokens"] == server.tokenizer.encode("a<|im_end|>", allow_special=True)
    assert parsed["token_strs"] == ["a", "<|im_end|>"]
    text = client.post("/v1/tokenize", json={"prompt": "<|im_end|>", "parse_special": False}).json()
    assert text["count"] == len("<|im_end|>")
    assert "token_strs" not in text


@pytest.mark.parametrize(("length", "in_thread"), [(LONG_TEXT, False), (LONG_TEXT + 1, True)])
def test_token_strs_of_a_long_text_are_made_in_a_thread(
    client: TestClient, server: Server, monkeypatch: pytest.MonkeyPatch, length: int, *, in_thread: bool
) -> None:
    token_bytes, threads = server.tokenizer.token_bytes, set[str]()

    def watched(token_id: int) -> bytes:
        threads.add(threading.current_thread().name)
        return token_bytes(token_id)

    monkeypatch.setattr(server.tokenizer, "token_bytes", watched)
    answer = client.post("/v1/tokenize", json={"prompt": "a" * length, "return_token_strs": True}).json()
    assert answer["token_strs"] == ["a"] * length
    assert [name.startswith("asyncio_") for name in threads] == [in_thread]


def test_a_begin_token_on_request(client: TestClient, server: Server) -> None:
    answer = client.post("/v1/tokenize", json={"prompt": "a", "add_special_tokens": True}).json()
    assert answer["tokens"] == server.tokenizer.encode_document("a")


def test_llama_cpps_names(client: TestClient, server: Server) -> None:
    answer = client.post("/tokenize", json={"content": "ab", "add_special": True, "with_pieces": True}).json()
    assert answer["tokens"] == server.tokenizer.encode_document("ab")
    assert answer["token_strs"][1:] == ["a", "b"]


def test_messages_as_the_chat_endpoint_renders_them(client: TestClient, server: Server) -> None:
    messages = [{"role": "user", "content": "hi"}]
    count = client.post("/v1/tokenize", json={"messages": messages}).json()["count"]
    client.post("/v1/chat/completions", json={"messages": messages})
    assert count == len(server.engine.submitted[0].prompt_token_ids)
    shorter = client.post("/v1/tokenize", json={"messages": messages, "add_generation_prompt": False}).json()["count"]
    assert shorter == count - len("<|im_start|>assistant\n") + len("<|im_start|>") - 1


def test_nothing_both_and_unknown_ids_are_refused(client: TestClient) -> None:
    both = {"prompt": "a", "messages": [{"role": "user", "content": "hi"}]}
    assert client.post("/v1/tokenize", json=both).status_code == 400
    assert client.post("/v1/tokenize", json={}).status_code == 400
    response = client.post("/v1/detokenize", json={"tokens": [1, 288]})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "tokens"


def test_an_empty_text_has_no_tokens(client: TestClient) -> None:
    assert client.post("/v1/tokenize", json={"prompt": ""}).json()["tokens"] == []
    assert client.post("/v1/detokenize", json={"tokens": []}).json() == {"prompt": ""}

"""Ollama's chat and generate: the bytes of their lines, what is read, and what is refused."""

import re
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.server.applications import Server

HI = {"messages": [{"role": "user", "content": "hi"}]}
CHAT = """\
{"model":"test-model","created_at":"T","message":{"role":"assistant","content":"ä"},"done":false}
{"model":"test-model","created_at":"T","message":{"role":"assistant","content":"\\n"},"done":false}
{"model":"test-model","created_at":"T","message":{"role":"assistant","content":""},"done":true,"done_reason":"stop",\
"total_duration":0,"load_duration":0,"prompt_eval_count":32,"prompt_eval_duration":0,"eval_count":4,"eval_duration":0}
"""
GENERATE = """\
{"model":"test-model","created_at":"T","response":"ä","done":false}
{"model":"test-model","created_at":"T","response":"\\n","done":false}
{"model":"test-model","created_at":"T","response":"","done":true,"done_reason":"stop","total_duration":0,\
"load_duration":0,"prompt_eval_count":32,"prompt_eval_duration":0,"eval_count":4,"eval_duration":0}
"""


def masked(text: str) -> str:
    """Without times."""
    text = re.sub(r'"created_at":"\d{4}-\d\d-\d\dT[\d:.]+Z"', '"created_at":"T"', text)
    return re.sub(r'_duration":\d+', '_duration":0', text)


def post(client: TestClient, path: str, status: int = 200, **body: Any) -> Any:
    response = client.post(path, json=body)
    assert response.status_code == status, response.text
    return response.json()


def test_the_bytes_of_a_chat(client: TestClient, server: Server) -> None:
    server.answer_with("ä\n")
    response = client.post("/api/chat", json={"model": "test-model:latest", **HI, "keep_alive": "5m"})
    assert response.headers["content-type"] == "application/x-ndjson"
    assert response.headers["X-RouteLM-Warnings"] == "keep_alive"
    assert masked(response.content.decode()) == CHAT


def test_the_bytes_of_a_completion(client: TestClient, server: Server) -> None:
    server.answer_with("ä\n")
    assert masked(client.post("/api/generate", json={"prompt": "hi"}).content.decode()) == GENERATE


def test_a_whole_answer_is_the_sum_of_the_lines(client: TestClient, server: Server) -> None:
    server.answer_with("ä\n")
    chat = post(client, "/api/chat", **HI, stream=False)
    assert (chat["message"], chat["done"], chat["done_reason"]) == (
        {"role": "assistant", "content": "ä\n"},
        True,
        "stop",
    )
    assert post(client, "/api/generate", prompt="hi", stream=False)["response"] == "ä\n"


def test_options_are_those_of_the_other_endpoints(client: TestClient, server: Server) -> None:
    options = {"num_predict": 2, "repeat_penalty": 1.5, "seed": 7, "top_k": 3, "temperature": 0.5, "num_ctx": 8192}
    response = client.post("/api/chat", json={**HI, "options": options, "stream": False})
    assert response.json()["done_reason"] == "length"
    sampling = server.engine.submitted[0].sampling
    assert (sampling.max_tokens, sampling.repetition_penalty, sampling.seed) == (2, 1.5, 7)
    assert (sampling.top_k, sampling.temperature) == (3, 0.5)
    assert response.headers["X-RouteLM-Warnings"] == "options.num_ctx"


def test_as_many_tokens_as_the_context_holds(client: TestClient, server: Server) -> None:
    for limit in (-1, -2):
        post(client, "/api/chat", **HI, options={"num_predict": limit}, stream=False)
    first, second = (request.sampling.max_tokens for request in server.engine.submitted)
    assert first == second > 300


def test_logprobs(client: TestClient, server: Server) -> None:
    server.answer_with("ab")
    for path, body in (("/api/chat", HI), ("/api/generate", {"prompt": "hi"})):
        answer = post(client, path, **body, stream=False, logprobs=True, top_logprobs=2)
        assert [(entry["token"], len(entry["top_logprobs"])) for entry in answer["logprobs"]] == [("a", 2), ("b", 2)]


def test_a_raw_prompt_is_continued_as_it_is(client: TestClient, server: Server) -> None:
    post(client, "/api/generate", prompt="ab", raw=True, stream=False)
    assert server.tokenizer.decode(server.engine.submitted[0].prompt_token_ids) == "ab"
    post(client, "/api/generate", prompt="ab", system="be brief", stream=False)
    assert "be brief" in server.tokenizer.decode(server.engine.submitted[1].prompt_token_ids)


def test_what_a_raw_prompt_leaves_out_is_named(client: TestClient) -> None:
    body = {"prompt": "ab", "raw": True, "system": "be brief", "think": True, "stream": False}
    assert client.post("/api/generate", json=body).headers["X-RouteLM-Warnings"] == "system, think"


def test_calls_and_their_results_reach_the_template(client: TestClient, server: Server) -> None:
    call = {"function": {"name": "f", "arguments": {"a": 1}}}
    turns = [
        *HI["messages"],
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_name": "f", "content": "9"},
    ]
    post(client, "/api/chat", messages=turns, stream=False)
    assert "Result of the call: 9" in server.tokenizer.decode(server.engine.submitted[0].prompt_token_ids)


@pytest.mark.parametrize(("path", "field"), [("/api/chat", "message"), ("/api/generate", "response")])
def test_without_a_prompt_the_model_is_loaded(client: TestClient, server: Server, path: str, field: str) -> None:
    answer = post(client, path, model="test-model")
    assert (answer["done"], answer["done_reason"]) == (True, "load")
    assert field in answer
    assert server.engine.submitted == []


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
@pytest.mark.parametrize(
    ("keep_alive", "reason"),
    [
        *((zero, "unload") for zero in (0, 0.0, "0", "0s", "0m0s")),
        *((other, "load") for other in (None, -1, 0.5, "10s", "5m", "")),
    ],
)
def test_a_model_that_is_kept_for_no_time_is_unloaded(
    client: TestClient, path: str, keep_alive: Any, reason: str
) -> None:
    assert post(client, path, keep_alive=keep_alive)["done_reason"] == reason


def test_it_is_told_that_the_model_stays_loaded(client: TestClient) -> None:
    for keep_alive, told in ((0, "keep_alive"), (None, None)):
        response = client.post("/api/chat", json={"keep_alive": keep_alive})
        assert response.headers.get("X-RouteLM-Warnings") == told


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({**HI, "options": {"mirostat": 2}}, "options: mirostat: this sampler is not served here"),
        ({**HI, "options": {"temperature": 9}}, "options: temperature: Input should be less than or equal to 5"),
        ({**HI, "format": "xml"}, "format: give json, or a JSON schema"),
        ({"keep_alive": False}, "keep_alive: Input should be a valid number"),
        ({**HI, "think": "huge"}, "think: give true, false, low"),
        (
            {"messages": [{"role": "user", "content": "x", "images": ["aaaa"]}]},
            "messages.0.images: images are not served",
        ),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_is_refused_is_named_in_a_string(client: TestClient, body: dict[str, Any], told: str) -> None:
    assert post(client, "/api/chat", 400, **body)["error"].startswith(told)


def test_fields_of_generate_that_are_refused(client: TestClient) -> None:
    for field, value in (("suffix", "x"), ("template", "x"), ("context", [1]), ("images", ["a"])):
        assert post(client, "/api/generate", 400, prompt="hi", **{field: value})["error"].startswith(f"{field}: ")


def test_another_model_is_a_404(client: TestClient) -> None:
    assert "is not served here" in post(client, "/api/chat", 404, model="llama3", **HI)["error"]
    assert post(client, "/api/nothing", 404)["error"].startswith("There is nothing")


def test_a_failed_step_is_a_line_with_an_error(client: TestClient, server: Server) -> None:
    server.engine.fail_after = 1
    *_, last = client.post("/api/chat", json=HI).text.splitlines()
    assert last == '{"error":"the step failed"}'

"""POST /v1/chat/completions."""

import threading
from collections.abc import Sequence
from typing import Any

import pytest
from starlette.testclient import TestClient

from server.api import chat
from server.api.logprobs import ChoiceLogprobs, chat_logprobs
from server.generation.logprobs import DecodedLogprobs
from server.generation.run_in_thread import LONG_TEXT
from tests.server.applications import MODEL, Server, events_of

HELLO = {"messages": [{"role": "user", "content": "hello"}]}


def ask(client: TestClient, **fields: Any) -> Any:
    response = client.post("/v1/chat/completions", json=HELLO | fields)
    assert response.status_code == 200, response.text
    return response.json()


def stream(client: TestClient, **fields: Any) -> list[Any]:
    response = client.post("/v1/chat/completions", json=HELLO | fields | {"stream": True})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    return events_of(response.text)


def test_an_answer_has_openais_shape(client: TestClient, server: Server) -> None:
    server.answer_with("good day")
    server.engine.cached_tokens = 5
    answer = ask(client, model=MODEL)
    assert answer.pop("id").startswith("chatcmpl-")
    assert answer.pop("created") > 1_700_000_000
    prompt_tokens = len(server.engine.submitted[0].prompt_token_ids)
    assert answer == {
        "object": "chat.completion",
        "model": MODEL,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "good day", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": 9,
            "total_tokens": prompt_tokens + 9,
            "prompt_tokens_details": {"cached_tokens": 5},
        },
    }


def test_a_stream_has_a_role_then_text_then_a_reason(client: TestClient, server: Server) -> None:
    server.answer_with("ab")
    events = stream(client)
    assert [event["choices"][0]["delta"] for event in events] == [
        {"role": "assistant", "content": ""},
        {"content": "a"},
        {"content": "b"},
        {},
    ]
    assert [event["choices"][0]["finish_reason"] for event in events] == [None, None, None, "stop"]
    assert len({event["id"] for event in events}) == 1
    assert {event["object"] for event in events} == {"chat.completion.chunk"}
    assert all("usage" not in event for event in events)


def test_usage_comes_last_and_only_when_asked_for(client: TestClient, server: Server) -> None:
    server.answer_with("ab")
    *events, last = stream(client, stream_options={"include_usage": True})
    assert all(event["usage"] is None for event in events)
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 3


def test_the_conversation_is_rendered_with_the_chat_tag(client: TestClient, server: Server) -> None:
    messages = [
        {"role": "developer", "content": "be kind"},
        {"role": "user", "content": [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]},
        {"role": "assistant", "content": "hi", "refusal": None, "tool_calls": [], "function_call": None},
        {"role": "user", "content": "bye", "name": "tom"},
    ]
    ask(client, messages=messages)
    [request] = server.engine.submitted
    assert server.tokenizer.decode(request.prompt_token_ids, skip_special=False) == (
        "<|im_start|>system\n<|task:chat|>be kind<|im_end|>\n<|im_start|>user\nhello<|im_end|>\n"
        "<|im_start|>assistant\nhi<|im_end|>\n<|im_start|>user\nbye<|im_end|>\n<|im_start|>assistant\n"
    )


def test_sampling_fields_reach_the_engine(client: TestClient, server: Server) -> None:
    fields = {
        "max_tokens": 50,
        "max_completion_tokens": 5,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.1,
        "repetition_penalty": 1.1,
        "presence_penalty": 0.5,
        "frequency_penalty": -0.5,
        "logit_bias": {"50": -100, "51": 1.5},
        "stop_token_ids": [60],
        "min_tokens": 2,
        "ignore_eos": True,
        "seed": -2,
    }
    ask(client, **fields)
    sampling = server.engine.submitted[0].sampling
    assert (sampling.max_tokens, sampling.temperature, sampling.top_p, sampling.top_k) == (5, 0.5, 0.9, 40)
    assert (sampling.min_p, sampling.repetition_penalty, sampling.min_tokens) == (0.1, 1.1, 2)
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (0.5, -0.5)
    assert dict(sampling.logit_bias) == {50: -100.0, 51: 1.5}
    assert sampling.stop_token_ids == frozenset({60})
    assert sampling.ignore_eos
    assert sampling.seed == 2**63 - 2
    assert sampling.logprobs is None


def test_null_stands_for_the_default(client: TestClient, server: Server) -> None:
    names = ["temperature", "top_p", "max_tokens", "stop", "seed", "n", "stream", "logprobs", "logit_bias", "tools"]
    ask(client, **dict.fromkeys(names))
    sampling = server.engine.submitted[0].sampling
    assert (sampling.temperature, sampling.top_p, sampling.seed) == (1.0, 1.0, None)
    room = server.service.max_model_len - len(server.engine.submitted[0].prompt_token_ids)
    assert sampling.max_tokens == room


@pytest.mark.parametrize("stop", ["STOP", ["STOP"], ["other", "STOP"]])
def test_stop_strings(client: TestClient, server: Server, stop: Any) -> None:
    server.answer_with("one STOP two")
    answer = ask(client, stop=stop)
    assert answer["choices"][0]["message"]["content"] == "one "
    assert answer["choices"][0]["finish_reason"] == "stop"
    events = stream(client, stop=stop)
    assert "".join(event["choices"][0]["delta"].get("content", "") for event in events) == "one "


def test_a_cut_answer_says_so(client: TestClient, server: Server) -> None:
    server.answer_with("abcdef")
    answer = ask(client, max_tokens=3)
    assert answer["choices"][0]["message"]["content"] == "abc"
    assert answer["choices"][0]["finish_reason"] == "length"
    assert stream(client, max_tokens=3)[-1]["choices"][0]["finish_reason"] == "length"


def test_several_choices_with_seeds_of_their_own(client: TestClient, server: Server) -> None:
    server.answer_with("ab")
    answer = ask(client, n=3, seed=7)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert [request.sampling.seed for request in server.engine.submitted] == [7, 8, 9]
    prompt_tokens = len(server.engine.submitted[0].prompt_token_ids)
    assert answer["usage"]["prompt_tokens"] == prompt_tokens
    assert answer["usage"]["completion_tokens"] == 9
    texts = {0: "", 1: "", 2: ""}
    for event in stream(client, n=3):
        texts[event["choices"][0]["index"]] += event["choices"][0]["delta"].get("content", "")
    assert texts == {0: "ab", 1: "ab", 2: "ab"}


def test_a_prompt_counts_once_however_many_choices_it_has(client: TestClient, server: Server) -> None:
    server.answer_with("ab")
    server.engine.cached_tokens = 5
    usage = ask(client, n=3)["usage"]
    assert usage["prompt_tokens"] == len(server.engine.submitted[0].prompt_token_ids)
    assert usage["prompt_tokens_details"] == {"cached_tokens": 5}
    assert stream(client, n=3, stream_options={"include_usage": True})[-1]["usage"] == usage


def test_the_seed_after_the_largest_is_the_smallest(client: TestClient, server: Server) -> None:
    ask(client, n=3, seed=2**63 - 2)
    assert [request.sampling.seed for request in server.engine.submitted] == [2**63 - 2, 2**63 - 1, 0]


def test_logprobs(client: TestClient, server: Server) -> None:
    server.answer_with("a你")
    answer = ask(client, logprobs=True, top_logprobs=2)
    content = answer["choices"][0]["logprobs"]["content"]
    assert [entry["token"] for entry in content] == ["a", "bytes:\\xe4", "bytes:\\xbd", "bytes:\\xa0"]
    assert content[0]["bytes"] == [97]
    assert len(content[0]["top_logprobs"]) == 2
    assert server.engine.submitted[0].sampling.logprobs == 2
    streamed = [
        entry
        for event in stream(client, logprobs=True, top_logprobs=2)
        if event["choices"][0]["logprobs"]
        for entry in event["choices"][0]["logprobs"]["content"]
    ]
    assert streamed == content


def test_logprobs_without_alternatives(client: TestClient, server: Server) -> None:
    server.answer_with("ab")
    content = ask(client, logprobs=True)["choices"][0]["logprobs"]["content"]
    assert [(entry["token"], entry["top_logprobs"]) for entry in content] == [("a", []), ("b", [])]
    streamed = [event["choices"][0]["logprobs"] for event in stream(client, logprobs=True)]
    assert [entry for each in streamed if each for entry in each["content"]] == content


@pytest.mark.parametrize(("alternatives", "in_thread"), [(0, False), (20, True)])
def test_an_answer_with_many_log_probabilities_is_made_in_a_thread(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, alternatives: int, *, in_thread: bool
) -> None:
    threads: list[str] = []

    def watched(entries: Sequence[DecodedLogprobs]) -> ChoiceLogprobs:
        threads.append(threading.current_thread().name)
        return chat_logprobs(entries)

    monkeypatch.setattr(chat, "chat_logprobs", watched)
    message = {"role": "user", "content": "a" * 150}
    answer = ask(client, messages=[message], logprobs=True, top_logprobs=alternatives)
    assert len(answer["choices"][0]["logprobs"]["content"]) > LONG_TEXT / 21
    assert [name.startswith("asyncio_") for name in threads] == [in_thread]


@pytest.mark.parametrize("max_tokens", [None, 100_000])
def test_more_log_probabilities_than_memory_holds_are_refused(
    client: TestClient, server: Server, max_tokens: int | None
) -> None:
    """Each field is within its bounds, but their product is not."""
    server.service.max_model_len = 40_960
    body = HELLO | {"logprobs": True, "top_logprobs": 20, "n": 8, "max_tokens": max_tokens}
    response = client.post("/v1/chat/completions", json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "logprobs"
    assert server.engine.submitted == []
    assert client.post("/v1/chat/completions", json=body | {"max_tokens": 2000}).status_code == 200


def test_an_answer_without_max_tokens_has_as_many_tokens_as_its_log_probabilities_allow(
    client: TestClient, server: Server
) -> None:
    server.service.max_model_len = 40_960
    ask(client, logprobs=True, top_logprobs=20)
    ask(client, logprobs=True, top_logprobs=0)
    with_alternatives, without = [request.sampling.max_tokens for request in server.engine.submitted]
    assert with_alternatives * 21 <= 2**19 < (with_alternatives + 1) * 21
    assert without == 40_960 - len(server.engine.submitted[1].prompt_token_ids)


def test_fields_that_change_nothing_are_ignored(client: TestClient) -> None:
    ask(
        client,
        user="tom",
        metadata={"a": "b"},
        store=False,
        service_tier="auto",
        parallel_tool_calls=True,
        response_format={"type": "text"},
        tools=[],
        tool_choice="none",
        modalities=["text"],
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("functions", [{"name": "f"}]),
        ("modalities", ["text", "audio"]),
        ("audio", {"voice": "x"}),
        ("web_search_options", {}),
    ],
)
def test_fields_that_ask_for_what_we_do_not_do_are_refused_by_name(client: TestClient, name: str, value: Any) -> None:
    response = client.post("/v1/chat/completions", json=HELLO | {name: value})
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["param"], error["code"]) == (name, "unsupported_parameter")
    assert name in error["message"]


def test_images_are_refused(client: TestClient) -> None:
    part = {"type": "image_url", "image_url": {"url": "http://127.0.0.1/x.png"}}
    response = client.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": [part]}]})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "messages.0.content.0.type"


def test_a_failed_step_is_a_500_and_an_error_event(client: TestClient, server: Server) -> None:
    server.answer_with("abcdef")
    server.engine.fail_after = 2
    response = client.post("/v1/chat/completions", json=HELLO)
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "engine_error"
    events = stream(client)
    assert events[-1]["error"]["code"] == "engine_error"
    assert events[1]["choices"][0]["delta"] == {"content": "a"}

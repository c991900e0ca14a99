"""Values as clients use them: numbers, stop strings, seeds, log-probabilities, and vLLM's fields of answers."""

from typing import Any

import pytest
from starlette.testclient import TestClient

from model.text.chat_template import ChatTemplate
from tests.server.applications import MAX_MODEL_LEN, Server, events_of

HELLO: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}]}
PATHS = {"/v1/chat/completions": HELLO, "/v1/completions": {"prompt": "hello"}}


@pytest.fixture(params=PATHS)
def path(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def ask(client: TestClient, path: str, **fields: Any) -> Any:
    response = client.post(path, json=PATHS[path] | fields)
    assert response.status_code == 200, response.text
    return response.json()


def refused(client: TestClient, path: str, **fields: Any) -> str:
    response = client.post(path, json=PATHS[path] | fields)
    assert response.status_code == 400, response.text
    return str(response.json()["error"]["param"])


def text_of(choice: dict[str, Any]) -> str:
    return str(choice["text"] if "text" in choice else choice["message"]["content"])


def test_max_tokens_of_minus_one_is_what_the_context_holds(client: TestClient, server: Server, path: str) -> None:
    ask(client, path, max_tokens=-1)
    [request] = server.engine.submitted
    assert request.sampling.max_tokens == MAX_MODEL_LEN - len(request.prompt_token_ids)
    assert refused(client, path, max_tokens=0) == "max_tokens"
    assert refused(client, path, max_tokens=-2) == "max_tokens"


@pytest.mark.parametrize(
    ("name", "value"), [("max_tokens", 5.0), ("top_k", 40.0), ("seed", 3.0), ("min_tokens", 2.0), ("n", 1.0)]
)
def test_a_whole_number_with_a_point_is_an_integer(client: TestClient, path: str, name: str, value: float) -> None:
    ask(client, path, **{name: value})
    assert refused(client, path, **{name: value + 0.5}) == name
    assert refused(client, path, **{name: str(value)}) == name


def test_a_seed_of_minus_one_is_random(client: TestClient, server: Server, path: str) -> None:
    ask(client, path, seed=-1)
    ask(client, path, seed=7)
    assert [request.sampling.seed for request in server.engine.submitted] == [None, 7]


def test_the_likeliest_token_by_top_p_of_zero(client: TestClient, server: Server, path: str) -> None:
    ask(client, path, top_p=0)
    sampling = server.engine.submitted[0].sampling
    assert (sampling.top_k, sampling.top_p) == (1, 1.0)


def test_high_temperatures(client: TestClient, server: Server, path: str) -> None:
    ask(client, path, temperature=5)
    assert server.engine.submitted[0].sampling.temperature == 5
    assert refused(client, path, temperature=5.1) == "temperature"


def test_many_stop_strings_of_which_empty_ones_do_not_count(client: TestClient, server: Server, path: str) -> None:
    server.answer_with("one STOP two")
    stop = [*(f"<{number}>" for number in range(63)), "", "STOP", ""]
    assert text_of(ask(client, path, stop=stop, max_tokens=50)["choices"][0]) == "one "
    for nothing in ("", [], [""]):
        assert text_of(ask(client, path, stop=nothing, max_tokens=50)["choices"][0]) == "one STOP two"
    assert refused(client, path, stop=["a"] * 65) == "stop"


@pytest.mark.parametrize("stream", [False, True])
def test_the_stop_string_can_be_part_of_the_text(client: TestClient, server: Server, path: str, stream: bool) -> None:
    server.answer_with("one STOP two")
    fields = {"stop": ["STOP"], "include_stop_str_in_output": True, "max_tokens": 50, "stream": stream}
    response = client.post(path, json=PATHS[path] | fields)
    if not stream:
        assert text_of(response.json()["choices"][0]) == "one STOP"
        return
    choices = [event["choices"][0] for event in events_of(response.text)]
    pieces = [choice["text"] if "text" in choice else choice["delta"].get("content", "") for choice in choices]
    assert "".join(pieces) == "one STOP"


def test_many_choices_as_far_as_the_queue_holds_them(client: TestClient, server: Server, path: str) -> None:
    assert len(ask(client, path, n=128, max_tokens=2)["choices"]) == 128
    assert refused(client, path, n=129) == "n"
    server.engine.capacity = 100
    response = client.post(path, json=PATHS[path] | {"n": 128})
    assert response.status_code == 400
    assert "this server holds 100" in response.json()["error"]["message"]


def test_special_tokens_can_be_written(client: TestClient, server: Server, path: str) -> None:
    server.engine.answer = lambda _: [40, server.tokenizer.special_tokens["<|en|>"], 41]
    plain = text_of(ask(client, path)["choices"][0])
    assert text_of(ask(client, path, skip_special_tokens=True)["choices"][0]) == plain
    shown = text_of(ask(client, path, skip_special_tokens=False)["choices"][0])
    assert shown == plain[0] + "<|en|>" + plain[1:]


def test_counts_in_every_event(client: TestClient, server: Server, path: str) -> None:
    server.answer_with("ab")
    options = {"include_usage": True, "continuous_usage_stats": True}
    events = events_of(client.post(path, json=PATHS[path] | {"stream": True, "stream_options": options}).text)
    counts = [event["usage"]["completion_tokens"] for event in events]
    assert counts == sorted(counts)
    assert counts[-1] == 3
    assert events[-1]["choices"] == []


# Log-probabilities


@pytest.mark.parametrize(
    ("fields", "alternatives"),
    [
        ({"logprobs": True}, 0),
        ({"logprobs": True, "top_logprobs": 3}, 3),
        ({"logprobs": 3}, 3),
        ({"logprobs": 3.0}, 3),
        ({"logprobs": False, "top_logprobs": 0}, None),
        ({"logprobs": 0}, None),
    ],
)
def test_log_probabilities_of_a_chat(
    client: TestClient, server: Server, fields: dict[str, Any], alternatives: int | None
) -> None:
    choice = ask(client, "/v1/chat/completions", **fields)["choices"][0]
    assert server.engine.submitted[0].sampling.logprobs == alternatives
    assert (choice["logprobs"] is None) == (alternatives is None)


@pytest.mark.parametrize(("logprobs", "alternatives"), [(True, 1), (False, None), (2, 2), (0, 0), (2.0, 2)])
def test_log_probabilities_of_a_completion(
    client: TestClient, server: Server, logprobs: Any, alternatives: int | None
) -> None:
    choice = ask(client, "/v1/completions", logprobs=logprobs)["choices"][0]
    assert server.engine.submitted[0].sampling.logprobs == alternatives
    assert (choice["logprobs"] is None) == (alternatives is None)


def test_prompt_logprobs_score_every_token_of_the_prompt(client: TestClient, server: Server, path: str) -> None:
    answer = ask(client, path, prompt_logprobs=2)
    [request] = server.engine.submitted
    scored = answer["prompt_logprobs"] if "prompt_logprobs" in answer else answer["choices"][0]["prompt_logprobs"]
    assert scored[0] is None
    assert [set(entry) >= {str(token)} for entry, token in zip(scored[1:], request.prompt_token_ids[1:], strict=True)]
    assert all(2 <= len(entry) <= 3 for entry in scored[1:])
    assert answer["choices"][0]["logprobs"] is None, "those of the answer were not asked for"
    assert refused(client, path, prompt_logprobs=1, stream=True) == "prompt_logprobs"


def test_prompt_logprobs_do_not_lengthen_those_of_the_answer(client: TestClient) -> None:
    choice = ask(client, "/v1/chat/completions", prompt_logprobs=5, logprobs=True, top_logprobs=1)["choices"][0]
    assert {len(entry["top_logprobs"]) for entry in choice["logprobs"]["content"]} == {1}
    choice = ask(client, "/v1/completions", prompt_logprobs=5, logprobs=1)["choices"][0]
    assert {len(entry) for entry in choice["logprobs"]["top_logprobs"]} <= {1, 2}


# Token ids and prompts


@pytest.mark.parametrize("stream", [False, True])
def test_token_ids_of_prompt_and_answer(client: TestClient, server: Server, path: str, stream: bool) -> None:
    server.answer_with("a你")
    fields = {"return_token_ids": True, "stream": stream, "max_tokens": 10}
    response = client.post(path, json=PATHS[path] | fields)
    events = events_of(response.text) if stream else [response.json()]
    prompt = [
        ids for event in events for ids in (event.get("prompt_token_ids"), *_each(event, "prompt_token_ids")) if ids
    ]
    answer = [token for event in events for ids in _each(event, "token_ids") for token in ids]
    [request] = server.engine.submitted
    assert prompt == [list(request.prompt_token_ids)]
    assert answer == [*server.tokenizer.encode("a你"), server.engine.eos[0]]  # the token that ended the text included


def _each(event: dict[str, Any], name: str) -> list[Any]:
    return [choice[name] for choice in event["choices"] if choice.get(name)]


def test_a_prompt_can_be_truncated_to_its_end(client: TestClient, server: Server, path: str) -> None:
    ask(client, path, truncate_prompt_tokens=4)
    ask(client, path, truncate_prompt_tokens=1000)
    short, whole = server.engine.submitted
    assert short.prompt_token_ids == whole.prompt_token_ids[-4:]
    assert refused(client, path, truncate_prompt_tokens=0) == "truncate_prompt_tokens"


def test_a_prompt_can_be_truncated_to_the_context(client: TestClient, server: Server) -> None:
    ask(client, "/v1/completions", prompt="x" * 1000, truncate_prompt_tokens=-1)
    assert len(server.engine.submitted[0].prompt_token_ids) == MAX_MODEL_LEN - 1


def test_special_tokens_in_a_completion_prompt_are_tokens(client: TestClient, server: Server) -> None:
    prompt = "a<|im_end|>b"
    ask(client, "/v1/completions", prompt=prompt)
    ask(client, "/v1/completions", prompt=prompt, parse_special=False)
    parsed, text = (request.prompt_token_ids for request in server.engine.submitted)
    assert list(parsed[1:]) == server.tokenizer.encode(prompt, allow_special=True)
    assert list(text[1:]) == server.tokenizer.encode(prompt)
    assert ask(client, "/v1/completions", prompt=prompt, echo=True, max_tokens=0)["choices"][0]["text"] == prompt


def test_a_completion_prompt_without_a_begin_token(client: TestClient, server: Server) -> None:
    ask(client, "/v1/completions", prompt="ab", add_special_tokens=False)
    assert list(server.engine.submitted[0].prompt_token_ids) == server.tokenizer.encode("ab")


def test_a_prompt_that_is_too_long_is_told_as_other_clients_expect(client: TestClient, path: str) -> None:
    long = {"messages": [{"role": "user", "content": "x" * 500}]} if "chat" in path else {"prompt": "x" * 500}
    response = client.post(path, json=long)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert "This model's maximum context length is 400 tokens" in error["message"]
    assert "prompt is too long" in error["message"]


# The end of a conversation


def rendered(server: Server) -> str:
    return server.tokenizer.decode(server.engine.submitted[-1].prompt_token_ids, skip_special=False)


def test_the_last_message_can_be_continued(client: TestClient, server: Server) -> None:
    messages = [*HELLO["messages"], {"role": "assistant", "content": "I am"}]
    fields = {"continue_final_message": True, "add_generation_prompt": False}
    ask(client, "/v1/chat/completions", messages=messages, **fields)
    assert rendered(server).endswith("<|im_start|>assistant\nI am")
    response = client.post("/v1/chat/completions", json=HELLO | fields)
    assert response.status_code == 400, "the last message is the user's"


def test_the_beginning_of_an_answer_can_be_left_out(client: TestClient, server: Server) -> None:
    ask(client, "/v1/chat/completions", add_generation_prompt=False)
    assert rendered(server).endswith("hello<|im_end|>\n")
    ask(client, "/v1/chat/completions", add_generation_prompt=True)
    assert rendered(server).endswith("<|im_start|>assistant\n")


def test_variables_of_the_template_are_taken(client: TestClient) -> None:
    ask(client, "/v1/chat/completions", chat_template_kwargs={"enable_thinking": False, "messages": []})
    answer = ask(client, "/v1/chat/completions", reasoning_effort="low")
    assert answer["warnings"] == ["reasoning_effort: ignored, it has no effect here."]
    assert "enable_thinking" in ask(client, "/v1/chat/completions", enable_thinking=True)["warnings"][0]
    assert "warnings" not in ask(client, "/v1/chat/completions", enable_thinking=False), "the answer does not think"


def test_variables_reach_the_template_but_cannot_forge_a_turn(client: TestClient, server: Server) -> None:
    server.service.chat_template = ChatTemplate("{{ messages[-1].content }}{{ reasoning_effort }}{{ x }}")
    answer = ask(client, "/v1/chat/completions", reasoning_effort="low", chat_template_kwargs={"x": "<|im_end|>"})
    assert "warnings" not in answer
    assert rendered(server) == "hellolow<|im_end|>"
    assert server.tokenizer.special_ids.isdisjoint(server.engine.submitted[-1].prompt_token_ids)


@pytest.mark.parametrize(("enabled", "mode"), [(True, "enabled"), (False, "disabled")])
def test_templates_that_call_the_switch_of_thinking_a_mode_know_it(
    client: TestClient, server: Server, enabled: bool, mode: str
) -> None:
    server.service.chat_template = ChatTemplate("{{ messages[-1].content }}{{ thinking_mode }}")
    assert "warnings" not in ask(client, "/v1/chat/completions", enable_thinking=enabled)
    assert rendered(server) == f"hello{mode}"


def test_words_and_tokens_can_be_forbidden(client: TestClient, server: Server, path: str) -> None:
    ask(client, path, bad_words=["ab"], allowed_token_ids=[50, 40, 50])
    ask(client, path, bad_words=[], allowed_token_ids=None)
    first, second = (request.sampling for request in server.engine.submitted)
    encode = server.tokenizer.encode
    assert first.bad_words == (tuple(encode("ab")), tuple(encode(" ab")))
    assert first.allowed_token_ids == (50, 40)
    assert (second.bad_words, second.allowed_token_ids) == ((), ())
    assert refused(client, path, allowed_token_ids=[9999]) == "allowed_token_ids"
    assert refused(client, path, bad_words=[""]) == "bad_words.0"


def test_a_salt_separates_the_prefixes_of_requests(client: TestClient, server: Server, path: str) -> None:
    ask(client, path, cache_salt="mine")
    ask(client, path, cache_salt="mine", truncate_prompt_tokens=3)
    ask(client, path)
    assert [request.cache_salt for request in server.engine.submitted] == ["mine", "mine", ""]
    assert refused(client, path, cache_salt="x" * 257) == "cache_salt"

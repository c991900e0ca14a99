"""Nothing a client sends makes a 500: a table of bad requests, then random ones."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from server.api.bounded_json import MAX_DEPTH
from tests.server.applications import client_of, make_server

CHAT = {"messages": [{"role": "user", "content": "hi"}]}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": {"prompt": "hi"},
    "/v1/translate": {"text": "hi there", "source_lang": "en", "target_lang": "zh"},
    "/v1/summarize": {"text": "hi"},
    "/v1/generate": {"prompt": "hi"},
    "/v1/analyze": {"text": "hi", "labels": ["a", "b"]},
    "/v1/tokenize": {"prompt": "hi"},
    "/v1/detokenize": {"tokens": [40]},
}
SAMPLING_PATHS = ["/v1/chat/completions", "/v1/completions", "/v1/translate", "/v1/summarize", "/v1/generate"]
HUGE = 10**30


@pytest.fixture(scope="module")
def open_client() -> Iterator[TestClient]:
    with client_of(make_server()) as client:
        yield client


def check_refusal(response: Any, param: str | None = None) -> None:
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    if param is not None:
        assert error["param"] == param


@pytest.mark.parametrize("path", BODIES)
def test_the_plain_bodies_are_good(open_client: TestClient, path: str) -> None:
    assert open_client.post(path, json=BODIES[path]).status_code == 200


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b"5",
        b"\xff\xfe",
        b'{"prompt": "\xff"}',
        b"{}",
        b'{"a": ' * 2000,
        b"[" * 100_000,
        b'{"prompt": 1' + b"0" * 5000 + b"}",
        b'{"\\ud800": 1}',
        b'{"prompt\\u0000": "hi"}',
    ],
    ids=range(14),
)
def test_what_is_no_object_of_ours_is_refused(open_client: TestClient, path: str, content: bytes) -> None:
    check_refusal(open_client.post(path, content=content, headers={"Content-Type": "application/json"}))


@pytest.mark.parametrize("path", BODIES)
def test_an_unknown_field_whose_name_is_no_text_is_refused(open_client: TestClient, path: str) -> None:
    body = json.dumps(BODIES[path] | {"\ud800": 1})
    check_refusal(open_client.post(path, content=body, headers=JSON), "\\ud800")


@pytest.mark.parametrize(
    "content_type", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"]
)
def test_other_content_types_are_refused(open_client: TestClient, content_type: str | None) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    response = open_client.post("/v1/generate", content=json.dumps({"prompt": "hi"}), headers=headers)
    check_refusal(response)
    assert "application/json" in response.json()["error"]["message"]


def test_broken_json_says_where(open_client: TestClient) -> None:
    response = open_client.post("/v1/generate", content='{"a" 1}', headers={"Content-Type": "application/json"})
    check_refusal(response)
    assert response.json()["error"]["code"] == "invalid_json"
    assert "character 5" in response.json()["error"]["message"]


@pytest.mark.parametrize("path", SAMPLING_PATHS)
@pytest.mark.parametrize(
    ("name", "value", "param"),
    [
        ("max_tokens", -2, None),
        ("max_tokens", HUGE, None),
        ("max_tokens", 1.5, None),
        ("max_tokens", "5", None),
        ("max_tokens", True, None),
        ("temperature", -0.1, None),
        ("temperature", 5.1, None),
        ("temperature", "hot", None),
        ("temperature", True, None),
        ("top_p", -0.1, None),
        ("top_p", 1.1, None),
        ("top_k", -2, None),
        ("top_k", HUGE, None),
        ("min_p", -0.1, None),
        ("repetition_penalty", 0, None),
        ("presence_penalty", 3, None),
        ("frequency_penalty", -3, None),
        ("logit_bias", {"a": 1}, "logit_bias.a"),
        ("logit_bias", {"-1": 1}, "logit_bias.-1"),
        ("logit_bias", {"50": 101}, "logit_bias.50"),
        ("logit_bias", {"9999999": 1}, "logit_bias"),
        ("logit_bias", {str(n): 1 for n in range(1025)}, None),
        ("logit_bias", {"\ud800": 1}, "logit_bias.\ufffd\ufffd\ufffd"),
        ("stop", ["a"] * 65, None),
        ("stop", "a" * 257, "stop.0"),
        ("stop", [5], "stop.0"),
        ("stop", "\ud800", "stop.0"),
        ("stop_token_ids", [-1], "stop_token_ids.0"),
        ("stop_token_ids", [5000], None),
        ("stop_token_ids", [1] * 65, None),
        ("min_tokens", -1, None),
        ("min_tokens", 999, None),
        ("ignore_eos", "yes", None),
        ("seed", 2**63, None),
        ("seed", 0.5, None),
        ("stream", "yes", None),
        ("model", 5, None),
        ("model", "m" * 257, None),
        ("include_stop_str_in_output", "yes", None),
        ("grammar", "root ::= x", None),
    ],
)
def test_wrong_values_are_refused_by_name(
    open_client: TestClient, path: str, name: str, value: Any, param: str | None
) -> None:
    body = BODIES[path] | {"max_tokens": 10} | {name: value}
    check_refusal(open_client.post(path, content=json.dumps(body), headers=JSON), param or name)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/generate"])
@pytest.mark.parametrize(
    ("name", "value", "param"),
    [
        ("grammar", 5, None),
        ("guided_json", 5, None),
        ("guided_json", {"not": {}}, "guided_json.not"),
        ("guided_json", {"pattern": "\ud800"}, None),
        ("guided_regex", "(", None),
        ("guided_regex", "\ud800", None),
        ("guided_choice", ["a", ""], "guided_choice.1"),
        ("guided_choice", ["\ud800"], "guided_choice.0"),
        ("guided_choice", ["a"] * 4097, None),
        ("response_format", {"type": "xml"}, "response_format.type"),
        ("response_format", {"type": "json_schema"}, "response_format.json_schema"),
        (
            "response_format",
            {"type": "json_schema", "json_schema": {"name": "x"}},
            "response_format.json_schema.schema",
        ),
        ("structured_outputs", {"choice": "a"}, "structured_outputs.choice"),
        ("structured_outputs", {"structural_tag": "a"}, "structured_outputs.structural_tag"),
    ],
)
def test_wrong_grammars_are_refused_by_name(
    open_client: TestClient, path: str, name: str, value: Any, param: str | None
) -> None:
    content = json.dumps(BODIES[path] | {name: value})
    check_refusal(open_client.post(path, content=content, headers=JSON), param or name)


JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/tokenize"])
@pytest.mark.parametrize(("begin", "end"), [("[", "]"), ('{"a": ', "}")])
def test_deeply_nested_template_variables_are_refused(open_client: TestClient, path: str, begin: str, end: str) -> None:
    def ask(depth: int) -> Any:
        variables = begin * depth + "1" + end * depth
        body = '{"messages": [{"role": "user", "content": "hi"}], "chat_template_kwargs": {"a": ' + variables + "}}"
        return open_client.post(path, content=body, headers=JSON)

    assert ask(MAX_DEPTH - 1).status_code == 200
    for depth in (MAX_DEPTH, 800):
        check_refusal(ask(depth), "chat_template_kwargs")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_none_are_refused(open_client: TestClient, number: str) -> None:
    body = '{"prompt": "hi", "temperature": ' + number + "}"
    check_refusal(open_client.post("/v1/generate", content=body, headers=JSON), "temperature")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [5]}, "messages.0"),
        ({"messages": [{"role": "wizard", "content": "hi"}]}, "messages.0.role"),
        ({"messages": [{"role": "function", "content": "hi"}]}, "messages.0.role"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": None}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": []}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages.0.content.0.text"),
        ({"messages": [{"role": "user", "content": "hi", "images": ["x"]}]}, "messages.0.images"),
        (
            {"messages": [{"role": "assistant", "content": "hi", "tool_calls": [{"id": "1"}]}]},
            "messages.0.tool_calls.0.function",
        ),
        (CHAT | {"n": 0}, "n"),
        (CHAT | {"n": 129}, "n"),
        (CHAT | {"top_logprobs": 5}, "top_logprobs"),
        (CHAT | {"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        (CHAT | {"logprobs": 21}, "logprobs"),
        (CHAT | {"stream": True, "stream_options": {"include_usage": 5}}, "stream_options.include_usage"),
        (CHAT | {"stream": True, "prompt_logprobs": 1}, "prompt_logprobs"),
        (CHAT | {"continue_final_message": True, "add_generation_prompt": True}, "continue_final_message"),
        (CHAT | {"max_completion_tokens": 0}, "max_completion_tokens"),
    ],
)
def test_wrong_conversations_are_refused(open_client: TestClient, fields: dict[str, Any], param: str) -> None:
    check_refusal(open_client.post("/v1/chat/completions", content=json.dumps(fields), headers=JSON), param)


@pytest.mark.parametrize("value", [None, 5, {"text": "hi"}])
def test_what_may_be_a_string_says_so(open_client: TestClient, value: Any) -> None:
    """And not that a list is expected, which few clients send."""
    content = open_client.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": value}]})
    check_refusal(content, "messages.0.content")
    expected = "messages.0.content: a string, or a list of text parts, is expected."
    assert content.json()["error"]["message"] == expected
    text = open_client.post("/v1/translate", json=BODIES["/v1/translate"] | {"text": value})
    check_refusal(text, "text")
    assert text.json()["error"]["message"] == "text: a string, or a list of strings, is expected."


WRONG_LISTS: dict[str, list[bytes]] = {
    "/v1/detokenize": [b'{"tokens":[%b""]}' % (b'"",' * 262_000), b'{"tokens":[%b1.5]}' % (b"1.5," * 262_000)],
    "/v1/completions": [
        b'{"prompt":[%b{}]}' % (b"{}," * 262_000),
        b'{"prompt":[[%b""]]}' % (b'"",' * 262_000),
        b'{"prompt":[1%b]}' % (b',""' * 262_000),
        b'{"prompt":"a","stop":[%b1]}' % (b"1," * 262_000),
        b'{"prompt":"a","logit_bias":{%b"a":1}}' % b"".join(b'"x%d":1,' % number for number in range(60_000)),
        b'{%b"prompt":1}' % b"".join(b'"x%d":1,' % number for number in range(60_000)),
    ],
    "/v1/chat/completions": [
        b'{"messages":[%b""]}' % (b'"",' * 262_000),
        b'{"messages":[{"role":"user","content":[%b""]}]}' % (b'"",' * 262_000),
    ],
    "/v1/analyze": [b'{"text":"a","labels":[%b1]}' % (b"1," * 262_000)],
    "/v1/translate": [b'{"target_lang":"de","text":[%b1]}' % (b"1," * 262_000)],
}


@pytest.mark.parametrize(
    ("path", "content"),
    [(path, content) for path, contents in WRONG_LISTS.items() for content in contents],
    ids=[f"{path}-{number}" for path, contents in WRONG_LISTS.items() for number in range(len(contents))],
)
def test_a_large_wrong_body_costs_milliseconds(open_client: TestClient, path: str, content: bytes) -> None:
    """Not a second, as it does if every wrong item gets an error of its own. Processor time: others compute, too."""

    def refuse() -> float:
        begun = time.process_time()
        check_refusal(open_client.post(path, content=content, headers=JSON))
        return time.process_time() - begun

    assert min(refuse() for _ in range(3)) < 0.25


def test_paths_and_methods_that_are_not_there(open_client: TestClient) -> None:
    response = open_client.get("/v2/nothing")
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "not_found"
    response = open_client.get("/v1/chat/completions")
    assert response.status_code == 405
    assert response.headers["allow"] == "POST"
    assert response.json()["error"]["code"] == "method_not_allowed"


def test_every_answer_has_an_id_of_ours(open_client: TestClient) -> None:
    ids = {
        open_client.get(path, headers={"X-Request-Id": "mine"}).headers["x-request-id"]
        for path in ("/health/live", "/nothing", "/v1/models")
    }
    assert len(ids) == 3
    assert "mine" not in ids


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
FIELDS = sorted(
    {
        *("model", "stream", "stop", "seed", "n", "logprobs", "echo", "temperature", "max_tokens", "logit_bias"),
        *("prompt_logprobs", "truncate_prompt_tokens", "bad_words", "allowed_token_ids", "chat_template_kwargs"),
        *("stream_options", "continue_final_message", "add_generation_prompt", "reasoning_effort", "top_logprobs"),
        *("grammar", "json_schema", "guided_json", "guided_choice", "guided_regex", "response_format"),
        *("structured_outputs", "tools", "n_predict", "best_of", "return_token_ids", "parse_special", "unknown"),
        *(name for body in BODIES.values() for name in body),
    }
)


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(path=st.sampled_from(sorted(BODIES)), fields=st.dictionaries(st.sampled_from(FIELDS), JSON_VALUES, max_size=4))
def test_random_fields_never_make_a_500(open_client: TestClient, path: str, fields: dict[str, Any]) -> None:
    content = json.dumps(BODIES[path] | fields)
    response = open_client.post(path, content=content, headers=JSON)
    assert response.status_code in (200, 400, 404), (response.status_code, content)
    assert open_client.get("/health/ready").status_code == 200

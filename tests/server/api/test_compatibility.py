"""Fields of other servers: what asks for nothing passes, hints are named, aliases are renamed, the rest is refused."""

from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from server.api.compatibility import FOREIGN_FIELDS, MAX_NAMED_FIELDS, markdown, translate_fields
from server.api.dependencies import WARNINGS_HEADER
from server.api.request_model import MAX_FIELDS
from tests.server.applications import Server, client_of, events_of, make_server

CHAT = "/v1/chat/completions"
HELLO: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}]}
BODIES: dict[str, dict[str, Any]] = {
    CHAT: HELLO,
    "/v1/completions": {"prompt": "hi"},
    "/v1/generate": {"prompt": "hi"},
    "/v1/translate": {"text": "hi there", "source_lang": "en", "target_lang": "zh"},
    "/v1/summarize": {"text": "hi"},
    "/v1/analyze": {"text": "hi", "labels": ["a", "b"]},
}


def call(**fields: Any) -> dict[str, Any]:
    return {"id": "call_1", "type": "function", "function": {"name": "f", **fields}}


NEUTRAL: dict[str, list[Any]] = {
    "best_of": [None, 1],
    "suffix": [None, ""],
    "tools": [None, []],
    "tool_choice": ["none", "auto"],
    "response_format": [None, {"type": "text"}],
    "modalities": [["text"]],
    "store": [False],
    "user": ["tom"],
    "metadata": [{"a": "b"}],
    "service_tier": ["auto"],
    "parallel_tool_calls": [True],
    "use_beam_search": [False],
    "length_penalty": [1, 1.0],
    "early_stopping": [False],
    "spaces_between_special_tokens": [True],
    "prompt_logprobs": [None],
    "allowed_token_ids": [None],
    "bad_words": [[]],
    "structured_outputs": [None],
    "guided_json": [None],
    "grammar": ["", None],
    "priority": [0],
    "id_slot": [-1],
    "n_probs": [0],
    "typical_p": [1, 1.0],
    "mirostat": [0],
    "mirostat_tau": [5.0],
    "tfs_z": [1],
    "dry_multiplier": [0, 0.0],
    "dry_base": [1.75],
    "xtc_probability": [0],
    "top_a": [0],
    "dynatemp_range": [0],
    "something_new": [None],
}
HINTS: dict[str, Any] = {
    "cache_prompt": True,
    "keep_alive": "5m",
    "num_ctx": 4096,
    "options": {"num_gpu": 1},
    "session_id": "s",
    "chat_id": "c",
    "request_id": "r",
    "store": True,
    "verbosity": "low",
    "timings_per_token": True,
    "return_progress": True,
    "repeat_last_n": 64,
    "samplers": ["top_k"],
    "something_new": 1,
}
GRAMMARS: dict[str, Any] = {
    "response_format": {"type": "json_object"},
    "structured_outputs": {"regex": "a"},
    "guided_json": {"type": "object"},
    "json_schema": {"type": "object"},
    "grammar": "root ::= x",
    "regex": "a+",
}
REFUSED: dict[str, Any] = {
    "structural_tag": "x",
    "typical_p": 0.5,
    "mirostat": 2,
    "dry_multiplier": 0.8,
    "xtc_probability": 0.5,
    "use_beam_search": True,
    "best_of": 2,
    "suffix": "x",
    "functions": [{"name": "f"}],
    "audio": {"voice": "x"},
    "chat_template": "{{ 1 }}",
    "do_sample": False,
    "extra_body": {"top_k": 5},
}


def cases(table: dict[str, Any]) -> list[Any]:
    return [pytest.param(name, value, id=f"{name}={value}"[:40]) for name, values in table.items() for value in values]


@pytest.mark.parametrize("path", BODIES)
def test_values_that_ask_for_nothing_pass_in_silence(client: TestClient, path: str) -> None:
    plain = client.post(path, json=BODIES[path]).json()
    for name, values in NEUTRAL.items():
        for value in values:
            response = client.post(path, json=BODIES[path] | {name: value})
            assert response.status_code == 200, (name, value, response.text)
            assert WARNINGS_HEADER not in response.headers, (name, value)
            assert response.json().get("warnings", []) == plain.get("warnings", [])


@pytest.mark.parametrize("value", [False, True])
def test_an_answer_that_comes_whole_need_not_be_streamed(client: TestClient, value: bool) -> None:
    body = {"text": "hello", "labels": ["a", "b"], "stream": value}
    response = client.post("/v1/analyze", json=body)
    assert response.status_code == 200, response.text
    assert (response.headers.get(WARNINGS_HEADER) == "stream") == value


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (CHAT, {"structured_outputs": {"json": None, "regex": "[ab]", "choice": None}}),
        (CHAT, {"response_format": {"type": "json_object", "schema": None}}),
        (CHAT, {"messages": [*HELLO["messages"], {"role": "assistant", "tool_calls": [call(arguments=None)]}]}),
        ("/v1/messages", {"tools": [{"name": "f", "description": None, "strict": None, "input_schema": {}}]}),
        ("/v1/responses", {"input": [{"type": None, "role": "user", "content": "hello"}]}),
    ],
)
def test_null_stands_for_a_part_that_is_left_out(client: TestClient, path: str, fields: dict[str, Any]) -> None:
    body = {"max_tokens": 3} | (HELLO if path != "/v1/responses" else {}) | fields
    response = client.post(path, json=body)
    assert response.status_code == 200, response.text
    assert "warnings" not in response.json()


def test_null_is_no_value_of_a_part_that_is_needed(client: TestClient) -> None:
    response = client.post(CHAT, json={"messages": [{"role": "user", "content": [{"type": "text", "text": None}]}]})
    assert response.json()["error"]["param"] == "messages.0.content.0.text"


@pytest.mark.parametrize("path", BODIES)
def test_hints_pass_and_are_named(client: TestClient, path: str) -> None:
    response = client.post(path, json=BODIES[path] | HINTS)
    assert response.status_code == 200, response.text
    assert response.headers[WARNINGS_HEADER] == ", ".join(HINTS)
    named = [warning.partition(":")[0] for warning in response.json()["warnings"]]
    assert named[-len(HINTS) :] == list(HINTS)


@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/v1/generate", "/v1/translate", "/v1/summarize"])
def test_hints_are_named_in_streams_too(client: TestClient, path: str) -> None:
    response = client.post(path, json=BODIES[path] | {"cache_prompt": True, "stream": True})
    assert response.headers[WARNINGS_HEADER] == "cache_prompt"
    events = events_of(response.text)
    assert sum("cache_prompt" in str(event.get("warnings")) for event in events) == 1


def test_no_warning_without_hints(client: TestClient) -> None:
    """Negative control: OpenAI's answers have no such field."""
    assert "warnings" not in client.post(CHAT, json=HELLO).json()
    assert all("warnings" not in event for event in events_of(client.post(CHAT, json=HELLO | {"stream": True}).text))


@pytest.mark.parametrize(("name", "value"), GRAMMARS.items(), ids=GRAMMARS)
@pytest.mark.parametrize("path", ["/v1/translate", "/v1/summarize"])
def test_grammars_are_refused_where_they_are_not_followed(client: TestClient, path: str, name: str, value: Any) -> None:
    response = client.post(path, json=BODIES[path] | {name: value})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == name


@pytest.mark.parametrize(("name", "value"), REFUSED.items(), ids=REFUSED)
@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/v1/generate"])
def test_what_would_change_the_text_is_refused_by_name(client: TestClient, path: str, name: str, value: Any) -> None:
    response = client.post(path, json=BODIES[path] | {name: value})
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["param"], error["code"]) == (name, "unsupported_parameter")
    assert error["message"].startswith(f"{name}: ")


@pytest.mark.parametrize(
    ("alias", "value", "name", "expected"),
    [
        ("n_predict", 3, "max_tokens", 3),
        ("num_predict", 3, "max_tokens", 3),
        ("max_new_tokens", 3, "max_tokens", 3),
        ("repeat_penalty", 1.2, "repetition_penalty", 1.2),
        ("random_seed", 7, "seed", 7),
        ("ban_eos_token", True, "ignore_eos", True),
    ],
)
def test_aliases_are_renamed(
    client: TestClient, server: Server, alias: str, value: Any, name: str, expected: Any
) -> None:
    response = client.post(CHAT, json=HELLO | {alias: value})
    assert response.status_code == 200, response.text
    assert "warnings" not in response.json()
    assert getattr(server.engine.submitted[0].sampling, name) == expected


def test_our_own_name_goes_before_an_alias(client: TestClient, server: Server) -> None:
    client.post(CHAT, json=HELLO | {"n_predict": 3, "max_tokens": 5})
    client.post(CHAT, json=HELLO | {"n_predict": 3, "max_tokens": None})
    assert [request.sampling.max_tokens for request in server.engine.submitted] == [5, 3]


def test_a_wrong_value_is_told_under_the_name_that_was_sent(client: TestClient) -> None:
    error = client.post(CHAT, json=HELLO | {"repeat_penalty": -1}).json()["error"]
    assert error["param"] == "repeat_penalty"


def test_all_bad_fields_are_told_at_once_in_the_order_of_the_body(client: TestClient) -> None:
    body = {"typical_p": 0.5, "cache_prompt": True, "temperature": 9, "functions": [{}], **HELLO, "n": 0}
    error = client.post(CHAT, json=body).json()["error"]
    assert error["param"] == "typical_p"
    positions = [error["message"].index(f"{name}: ") for name in ("typical_p", "temperature", "functions", "n")]
    assert positions == sorted(positions)
    assert "cache_prompt" not in error["message"]


def test_tools_that_may_not_be_called_ask_for_nothing(client: TestClient) -> None:
    fields = {"prompt": "a", "tools": [{"type": "function", "function": {"name": "f"}}]}
    assert client.post("/v1/completions", json=fields | {"tool_choice": "none"}).status_code == 200
    assert client.post("/v1/completions", json=fields | {"tool_choice": "auto"}).status_code == 400


def test_best_of_as_many_as_are_returned_asks_for_nothing(client: TestClient) -> None:
    assert client.post("/v1/completions", json={"prompt": "a", "n": 2, "best_of": 2}).status_code == 200
    assert client.post("/v1/completions", json={"prompt": "a", "n": 2, "best_of": 3}).status_code == 400


def test_numbers_are_not_booleans() -> None:
    refused = translate_fields({"mirostat": False, "use_beam_search": 0}, (), ()).refused
    assert set(refused) == {"mirostat", "use_beam_search"}


@pytest.mark.parametrize("path", BODIES)
def test_a_strict_server_refuses_unknown_fields(path: str) -> None:
    with client_of(make_server(strict=True)) as client:
        error = client.post(path, json=BODIES[path] | {"temprature": 1, "other": 2}).json()["error"]
        assert (error["param"], error["code"]) == ("temprature", "unknown_parameter")
        assert "other" in error["message"]
        assert client.post(path, json=BODIES[path] | {"cache_prompt": True, "new": None}).status_code == 200


def test_a_body_of_very_many_fields_is_refused(client: TestClient) -> None:
    response = client.post(CHAT, json=HELLO | {f"field{number}": 1 for number in range(MAX_FIELDS)})
    assert response.status_code == 400
    assert response.json()["error"]["message"].startswith("a body has at most 16,384 fields")


def test_many_unknown_fields_make_a_short_answer(client: TestClient) -> None:
    response = client.post(CHAT, json=HELLO | {f"field{number}": 1 for number in range(10_000)})
    assert response.status_code == 200
    assert len(response.json()["warnings"]) == MAX_NAMED_FIELDS + 1
    assert len(response.headers[WARNINGS_HEADER]) < 2000


def test_names_of_unknown_fields_cannot_break_a_header(client: TestClient) -> None:
    response = client.post(CHAT, json=HELLO | {"a\r\nX-Evil: 1": 1, "ü,\ud7ff": 2})
    assert response.status_code == 200
    assert "x-evil" not in response.headers
    assert response.headers[WARNINGS_HEADER].isascii()


def test_no_field_is_twice_in_the_table() -> None:
    assert markdown().count("\n| `") == len(FOREIGN_FIELDS)


def test_every_row_of_the_table_is_of_one_class() -> None:
    for field in FOREIGN_FIELDS.values():
        assert not (field.alias_of and field.refusal), field.name
        assert field.kind in ("neutral", "hint", "alias", "refused")


def test_the_document_tells_what_the_table_does() -> None:
    """To write it anew: python -c 'from server.api.compatibility import markdown; print(markdown())'."""
    document = (Path(__file__).parents[3] / "docs" / "fields.md").read_text(encoding="utf-8")
    assert markdown() in document


# A message of a history


def test_an_assistants_turn_may_be_empty(client: TestClient, server: Server) -> None:
    for empty in ({"content": None}, {"content": []}, {}):
        messages = [*HELLO["messages"], {"role": "assistant", **empty}, {"role": "user", "content": "again"}]
        assert client.post(CHAT, json={"messages": messages}).status_code == 200
    prompts = {request.prompt_token_ids for request in server.engine.submitted}
    assert len(prompts) == 1


def test_extra_fields_of_messages_are_ignored_and_named(client: TestClient) -> None:
    part = {"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}}
    answer = {"role": "assistant", "content": "yo", "reasoning_content": "hm", "id": "1", "prefix": None, "images": []}
    response = client.post(CHAT, json={"messages": [{"role": "user", "content": [part]}, answer, HELLO["messages"][0]]})
    assert response.status_code == 200, response.text
    named = ["messages.0.content.0.cache_control", "messages.1.id"]
    assert response.headers[WARNINGS_HEADER] == ", ".join(named)


def test_what_is_wrong_in_a_history_is_told_where_it_is(client: TestClient) -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}
    error = client.post(CHAT, json={"messages": [*HELLO["messages"], call]}).json()["error"]
    assert error["param"] == "messages.1.tool_calls.0.function"
    error = client.post(CHAT, json={"messages": [{"role": "function", "content": "1"}]}).json()["error"]
    assert error["param"] == "messages.0.role"
    assert "tool_calls" in error["message"]
    image = {"type": "image_url", "image_url": {"url": "http://x"}}
    error = client.post(CHAT, json={"messages": [{"role": "user", "content": [image]}]}).json()["error"]
    assert "images" in error["message"]

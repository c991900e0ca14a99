"""The fields that constrain an answer: on a real engine the answer obeys them, and wrong ones are 400s with a place."""

import json
import re
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from starlette.testclient import TestClient

from model.training.train_tokenizer import CHAT_TEMPLATE
from server.engine.client.async_llm import AsyncLLM
from server.engine.engine import Engine
from server.engine.grammar.compiler import GrammarCompiler
from server.generation.grammar_tokenizer import open_grammar_tokenizer
from server.settings import Settings
from server.startup.app import Backend, create_app
from tests.server.applications import Server, backend_on, byte_tokenizer, client_of, events_of
from tests.server.engine.tiny import engine_config, tiny_config, tiny_network

TOKENIZER = byte_tokenizer()
VOCAB, LENGTH = 288, 512
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"enum": ["Bonn", "北京"], "description": "where"},
        "days": {"type": "integer", "minimum": 1, "maximum": 14},
    },
    "required": ["city", "days"],
}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Where to?"}]},
    "/v1/completions": {"prompt": "Where to?"},
    "/v1/generate": {"prompt": "Where to?"},
}
SCHEMA_FIELDS: list[dict[str, Any]] = [
    {"response_format": {"type": "json_schema", "json_schema": {"name": "trip", "strict": True, "schema": SCHEMA}}},
    {"response_format": {"type": "json_object", "schema": SCHEMA}},
    {"structured_outputs": {"json": SCHEMA}},
    {"structured_outputs": {"json": json.dumps(SCHEMA)}},
    {"guided_json": SCHEMA},
    {"json_schema": SCHEMA},
]
OTHER_FIELDS: list[tuple[dict[str, Any], str]] = [
    ({"structured_outputs": {"regex": r"\d{3}-[a-c]+z"}}, r"\d{3}-[a-c]+z"),
    ({"guided_regex": "^x/y{2}$"}, "x/yy"),
    ({"regex": "(yes|no)"}, "yes|no"),
    ({"structured_outputs": {"choice": ["red", "green\n", '"blue"']}}, 'red|green\n|"blue"'),
    ({"guided_choice": ["red"]}, "red"),
    ({"structured_outputs": {"grammar": 'start: "a" NUMBER\nNUMBER: /[0-9]{2}/'}}, "a[0-9]{2}"),
    ({"guided_grammar": 'root ::= ("x" | "y") tail\ntail ::= [0-9]'}, "[xy][0-9]"),
    ({"grammar": 'root ::= "b" "c"?'}, "bc?"),
    ({"ebnf": 'root ::= "d"'}, "d"),
]


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    """A network with random weights, which by itself says no JSON."""
    network = tiny_network(tiny_config(vocab_size=VOCAB, max_positions=LENGTH))
    grammars = GrammarCompiler(partial(open_grammar_tokenizer, TOKENIZER, VOCAB))

    def open_backend() -> Backend:
        ends = frozenset(TOKENIZER.eos_token_ids)
        config = engine_config(max_model_len=LENGTH, max_num_seqs=4, max_queue=200, eos_token_ids=ends)
        engine = AsyncLLM(Engine(network, config, grammars=grammars))
        return backend_on(engine, TOKENIZER, grammars, CHAT_TEMPLATE, LENGTH)

    with TestClient(create_app(Settings(), open_backend)) as made:
        yield made


def ask(client: TestClient, path: str, **fields: Any) -> list[tuple[str, str]]:
    """The texts of an answer and why they ended."""
    response = client.post(path, json=BODIES[path] | {"max_tokens": 300, "temperature": 1.5, "seed": 7} | fields)
    assert response.status_code == 200, response.text
    answer = response.json()
    choices = answer.get("choices", [answer])
    return [
        (choice["message"]["content"] if "message" in choice else choice["text"], choice["finish_reason"])
        for choice in choices
    ]


def check_trip(text: str) -> None:
    trip = json.loads(text)
    assert trip["city"] in ("Bonn", "北京")
    assert 1 <= trip["days"] <= 14
    assert len(trip) == 2


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("fields", SCHEMA_FIELDS, ids=str)
def test_a_schema_is_obeyed(client: TestClient, path: str, fields: dict[str, Any]) -> None:
    [(text, reason)] = ask(client, path, **fields)
    check_trip(text)
    assert reason == "stop"


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize(("fields", "pattern"), OTHER_FIELDS, ids=str)
def test_other_grammars_are_obeyed(client: TestClient, path: str, fields: dict[str, Any], pattern: str) -> None:
    [(text, reason)] = ask(client, path, **fields)
    assert re.fullmatch(pattern, text)
    assert reason == "stop"


def test_without_a_grammar_the_network_says_no_json(client: TestClient) -> None:
    """Negative control."""
    for path in BODIES:
        [(text, _)] = ask(client, path, response_format={"type": "text"})
        with pytest.raises(ValueError, match="Expecting"):
            json.loads(text)


def test_a_json_object(client: TestClient) -> None:
    bias = {str(TOKENIZER.encode(end)[0]): 20 for end in '"}]'}
    [(text, reason)] = ask(
        client, "/v1/chat/completions", response_format={"type": "json_object"}, logit_bias=bias, max_tokens=-1
    )
    assert isinstance(json.loads(text), dict)
    assert reason == "stop"


@pytest.mark.parametrize("fields", SCHEMA_FIELDS, ids=str)
def test_an_analysis_obeys_a_schema(client: TestClient, fields: dict[str, Any]) -> None:
    body = {"text": ["I spend a week in Bonn.", "Two in Peking!"], "temperature": 1.5, "seed": 7} | fields
    response = client.post("/v1/analyze", json=body)
    assert response.status_code == 200, response.text
    results = response.json()["results"]
    assert [result["finish_reason"] for result in results] == ["stop", "stop"]
    for result in results:
        check_trip(json.dumps(result["data"]))


def test_choices_differ_and_each_is_valid_also_in_a_stream(client: TestClient) -> None:
    path, fields = "/v1/chat/completions", SCHEMA_FIELDS[0] | {"n": 4}
    whole = [text for text, _ in ask(client, path, **fields)]
    assert len(set(whole)) > 1
    for text in whole:
        check_trip(text)
    body = BODIES[path] | fields | {"stream": True, "max_tokens": 300, "temperature": 1.5, "seed": 7}
    streamed = [""] * 4
    for event in events_of(client.post(path, json=body).text):
        for choice in event["choices"]:
            streamed[choice["index"]] += choice["delta"].get("content", "")
    assert streamed == whole


def test_log_probabilities_come_with_every_token_and_change_nothing(client: TestClient) -> None:
    path = "/v1/completions"
    body = BODIES[path] | SCHEMA_FIELDS[0] | {"max_tokens": 300, "temperature": 1.5, "seed": 7}
    plain = client.post(path, json=body).json()["choices"][0]
    scored = client.post(path, json=body | {"logprobs": 2}).json()["choices"][0]
    assert scored["text"] == plain["text"]
    assert "".join(scored["logprobs"]["tokens"][:6]) == '{"city'
    assert min(scored["logprobs"]["token_logprobs"]) < -1, "they are the model's own, which would say something else"


def test_an_answer_that_is_cut_off_says_so(client: TestClient) -> None:
    [(text, reason)] = ask(client, "/v1/generate", guided_json=SCHEMA, max_tokens=9)
    assert reason == "length"
    assert text == '{"city": '


def test_two_grammars_exclude_each_other(client: TestClient) -> None:
    body = BODIES["/v1/generate"] | {"guided_regex": "a", "json_schema": SCHEMA}
    response = client.post("/v1/generate", json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "guided_regex"


@pytest.mark.parametrize(
    ("schema", "place", "words"),
    [
        ({"properties": {"a": {"not": {"type": "null"}}}}, "properties.a.not", "`not` is not supported"),
        ({"items": {"uniqueItems": True}}, "items.uniqueItems", "`uniqueItems`"),
        ({"anyOf": [{"format": "idn-email"}]}, "anyOf.0.format", "`idn-email`"),
        ({"$ref": "#/$defs/A", "$defs": {"A": {"items": {"type": "text"}}}}, "$defs.A.items", "Invalid type: text"),
        ({"properties": {"p": {"pattern": "a(?!b)"}}}, "properties.p", "look-around"),
        ({"properties": {"p": {"$ref": "#/$defs/B"}}}, "properties.p", "/$defs/B"),
        ({"oneOf": [{"type": "string"}, {"minLength": 2}]}, "", "use `anyOf`"),
        ({"properties": {"p": 5}}, "properties.p", "a schema is an object"),
        ({"type": "object", "minProperties": 2}, "minProperties", "more than 1"),
        ({"const": "x" * 5000}, "const", "at most 4096"),
        ({"anyOf": [{}] * 501}, "anyOf", "at most 500"),
    ],
    ids=str,
)
def test_a_wrong_schema_names_the_place(client: TestClient, schema: Any, place: str, words: str) -> None:
    response_format = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    body = BODIES["/v1/chat/completions"] | {"response_format": response_format}
    response = client.post("/v1/chat/completions", json=body)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == "response_format.json_schema.schema" + (f".{place}" if place else "")
    assert words in error["message"]


def test_a_server_without_grammars_says_so(server: Server) -> None:
    server.service._grammars = None
    with client_of(server) as client:
        response = client.post("/v1/generate", json=BODIES["/v1/generate"] | {"guided_regex": "a"})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "guided_regex"

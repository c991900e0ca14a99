"""/openapi.json says what the server answers when something is wrong, and bounds everything that a client may send."""

from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.server.applications import client_of, make_server

Schema = dict[str, Any]

# Any value: it is ignored, refused unless it asks for nothing, or given to the chat template as it is
NOT_READ = {
    "name", "refusal", "audio", "images", "annotations", "function_call", "previous_response_id", "conversation",
    "structural_tag",
    "schema", "json", "guided_json", "json_schema",  # are read by json_schema.py, which has bounds of its own
}  # fmt: skip


@pytest.fixture(scope="module")
def document() -> Schema:
    with client_of(make_server()) as client:
        found: Schema = client.get("/openapi.json").json()
        return found


def operations(document: Schema, method: str) -> dict[str, Schema]:
    return {path: entry[method] for path, entry in document["paths"].items() if method in entry}


def test_nobody_is_promised_a_422(document: Schema) -> None:
    told = {status for entry in document["paths"].values() for one in entry.values() for status in one["responses"]}
    assert "422" not in told
    assert "HTTPValidationError" not in document["components"]["schemas"]


def test_every_post_declares_the_errors_in_their_shape(document: Schema) -> None:
    posts = operations(document, "post")
    assert len(posts) == 22
    for path, operation in posts.items():
        answers = operation["responses"]
        assert set(answers) - {"409"} == {
            "200",
            "400",
            "401",
            "403",
            "404",
            "413",
            "415",
            "429",
            "500",
            "503",
            "default",
        }, path
        shape = {"/api/": "OllamaError", "/v1/messages": "AnthropicError"}
        names = {name for prefix, name in shape.items() if path.startswith(prefix)} or {"ErrorAnswer"}
        schemas = [answers[status]["content"]["application/json"]["schema"] for status in set(answers) - {"200"}]
        assert {schema["$ref"].rpartition("/")[2] for schema in schemas} == names
        assert {status for status in answers if "Retry-After" in answers[status].get("headers", {})} == {"429", "503"}


def test_the_declared_shape_is_the_one_that_is_sent(document: Schema, client: TestClient) -> None:
    sent = client.post("/v1/generate", json={}).json()
    schemas = document["components"]["schemas"]
    assert list(schemas["ErrorAnswer"]["properties"]) == list(sent)
    assert list(schemas["ErrorFields"]["properties"]) == list(sent["error"])


def test_what_only_reads_declares_less(document: Schema) -> None:
    gets = operations(document, "get")
    assert set(gets["/v1/models/{model_id}"]["responses"]) == {"200", "401", "403", "404", "default"}
    assert set(gets["/metrics"]["responses"]) == {"200", "401", "403", "default"}
    for path in ("/health/live", "/health/ready"):
        answers = gets[path]["responses"]
        assert set(answers) - {"409"} == {"200", "503"}
        assert answers["503"]["content"] == answers["200"]["content"]


def test_the_key_is_declared_where_it_may_be_asked_for(document: Schema) -> None:
    (name,) = document["components"]["securitySchemes"]
    assert document["components"]["securitySchemes"][name]["scheme"] == "bearer"
    for path, methods in document["paths"].items():
        for operation in methods.values():
            assert operation.get("security") == (None if path.startswith("/health") else [{name: []}]), path


# Bounds


def unbounded(document: Schema, schema: Schema, path: str) -> Iterator[str]:
    """Where a value of this schema may be as large, as long or as many as a client likes."""
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
    forms = [form for key in ("anyOf", "oneOf", "allOf") for form in schema.get(key, [])]
    for number, form in enumerate(forms):
        yield from unbounded(document, form, f"{path}[{number}]")
    if forms or "enum" in schema or "const" in schema or schema.get("type") in ("null", "boolean"):
        return
    kind = schema.get("type", "any")
    if not BOUNDED.get(kind, lambda _: False)(schema):
        yield f"{path}: {kind}"
    for child, inner in children(schema):
        if child not in NOT_READ:
            yield from unbounded(document, inner, f"{path}.{child}")


def children(schema: Schema) -> Iterator[tuple[str, Schema]]:
    yield from schema.get("properties", {}).items()
    yield from schema.get("patternProperties", {}).items()
    if "items" in schema:
        yield "items", schema["items"]


def has_ends(schema: Schema) -> bool:
    return bool(schema.keys() & {"minimum", "exclusiveMinimum"}) and bool(
        schema.keys() & {"maximum", "exclusiveMaximum"}
    )


BOUNDED = {
    "integer": has_ends,
    "number": has_ends,
    "string": lambda schema: "maxLength" in schema or schema.get("format") == "binary",  # by the bound of the body
    "array": lambda schema: "maxItems" in schema and "items" in schema,
    "object": lambda schema: (
        "properties" in schema  # other fields are not read
        or ("patternProperties" in schema and "maxProperties" in schema)
        or ("propertyNames" in schema and "maxProperties" in schema)
        or "x-max-depth" in schema  # passed on as it is, within the bound of the body
    ),
}


def test_everything_a_client_may_send_is_bounded(document: Schema) -> None:
    for path, operation in operations(document, "post").items():
        for content in operation.get("requestBody", {}).get("content", {}).values():
            assert list(unbounded(document, content["schema"], path)) == []


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "integer", "minimum": 0},
        {"type": "number", "maximum": 1},
        {"type": "string"},
        {"type": "array", "items": {"type": "string", "maxLength": 5}},
        {"type": "array", "items": {"type": "string"}, "maxItems": 5},
        {"type": "object", "additionalProperties": {"type": "boolean"}},
        {"type": "object", "properties": {"x": {"anyOf": [{"type": "string"}, {"type": "null"}]}},
         "additionalProperties": True},
        {},
    ],
)  # fmt: skip
def test_the_walk_finds_what_is_not(schema: Schema) -> None:
    """Negative control of the above."""
    assert len(list(unbounded({}, schema, "body"))) == 1

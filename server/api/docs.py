"""GET /docs: the endpoints and their fields on one page that needs no network. The machine's form: /openapi.json."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from html import escape
from itertools import groupby
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse, JSONResponse

from server.api.compatibility import FOREIGN_FIELDS, ForeignField
from server.api.openapi_errors import with_key

router = APIRouter(include_in_schema=False)

Schema = Mapping[str, Any]

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
code { font-size: 0.9em; overflow-wrap: anywhere; } h2 { margin-top: 2rem; } pre { white-space: pre-wrap; }
table { border-collapse: collapse; width: 100%; } td, th { text-align: left; padding: 0.2rem 1rem 0.2rem 0; }
td { border-top: 1px solid #8884; vertical-align: top; } summary { cursor: pointer; }
@media (max-width: 40rem) {
  td { display: block; border: 0; padding: 0; } td:first-child { border-top: 1px solid #8884; }
}
:root { color-scheme: light dark; }
"""
_CLASSES = {
    "neutral": "Every value is dropped in silence.",
    "hint": "Dropped, and named in the warnings of the answer.",
    "alias": "Another name for one of our fields.",
    "refused": "Refused, with what to do instead: ignoring them would change the text.",
}


# The first schema takes a second to make. Functions that are not async run in a thread, so streams go on meanwhile.


@router.get("/openapi.json")
def openapi(request: Request) -> JSONResponse:
    """The schema for machines."""
    return JSONResponse(with_key(request.app.openapi()))


@router.get("/docs")
def docs(request: Request) -> HTMLResponse:
    """Rendered from the OpenAPI schema and the table of foreign fields, so it cannot be out of date."""
    schema: dict[str, Any] = with_key(request.app.openapi())
    parts = "".join(_endpoint(schema, path, method, entry) for path, method, entry in _endpoints(schema))
    title = escape(f"{schema['info']['title']} {schema['info']['version']}")
    return HTMLResponse(
        f"<!doctype html><html lang='en'><meta charset='utf-8'>"
        f"<meta name='viewport' content='width=device-width'><title>{title}</title><style>{_STYLE}</style>"
        f"<h1>{title}</h1><p>{_text(schema['info'].get('description', ''))}</p>"
        f"<p>The same for machines: <a href='openapi.json'>openapi.json</a>.</p>{parts}{_foreign_fields()}</html>"
    )


def _endpoints(schema: Schema) -> Iterator[tuple[str, str, Schema]]:
    for path, methods in schema["paths"].items():
        for method, entry in methods.items():
            yield path, method, entry


def _endpoint(schema: Schema, path: str, method: str, entry: Schema) -> str:
    head = f"<h2><code>{method.upper()} {escape(path)}</code></h2><p><b>{escape(entry['summary'])}.</b> "
    text = f"{_text(entry.get('description', ''))}</p>"
    body = entry.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    return head + text + (_fields(schema, _resolve(schema, body)) if body else "") + _errors(entry)


def _fields(schema: Schema, model: Schema) -> str:
    rows = _rows(_row(name, field, required, schema) for name, field, required in _all_fields(schema, model, ""))
    return f"<details><summary>Fields</summary>{rows}</details>"


def _errors(entry: Schema) -> str:
    errors = [
        (status, answer) for status, answer in entry["responses"].items() if status.isdecimal() and status >= "400"
    ]
    if not errors:
        return ""
    rows = _rows((status, escape(answer["description"])) for status, answer in errors)
    return f"<details><summary>Errors</summary>{rows}</details>"


def _all_fields(schema: Schema, model: Schema, prefix: str) -> Iterator[tuple[str, Schema, bool]]:
    """The fields of an object, required ones first, each followed by the fields of the objects in it."""
    required = model.get("required", [])
    for name, field in sorted(model.get("properties", {}).items(), key=lambda item: item[0] not in required):
        yield prefix + name, field, name in required
        for path, inner in _objects_in(schema, field, prefix + name):
            yield from _all_fields(schema, inner, path)


def _objects_in(schema: Schema, field: Schema, path: str) -> Iterator[tuple[str, Schema]]:
    field = _resolve(schema, field)
    for form in field.get("anyOf", field.get("oneOf", [])):
        yield from _objects_in(schema, form, path)
    if field.get("type") == "array":
        yield from _objects_in(schema, field.get("items", {}), f"{path}[]")
    elif "properties" in field:
        yield f"{path}.", field


def _row(name: str, field: Schema, required: bool, schema: Schema) -> tuple[str, ...]:
    default = field.get("default")
    note = "required" if required else "" if default is None else f"default: {escape(json.dumps(default))}"
    return f"<code>{escape(name)}</code>", note, escape(_type(schema, field)), _text(_description(schema, field))


def _rows(rows: Iterable[tuple[str, ...]]) -> str:
    cells = ("".join(f"<td>{cell}</td>" for cell in row) for row in rows)
    return "<table>" + "".join(f"<tr>{row}</tr>" for row in cells) + "</table>"


def _text(text: str) -> str:
    """Plain text in which `...` is code."""
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(text))


def _description(schema: Schema, field: Schema) -> str:
    """A field's description, or that of one of its forms."""
    forms = [_resolve(schema, form) for form in field.get("anyOf", field.get("oneOf", []))]
    found = [form["description"] for form in (field, *forms) if form.get("description")]
    return str(found[0]) if found else ""


def _type(schema: Schema, field: Schema) -> str:
    """A field's type and bounds in words."""
    field = _resolve(schema, field)
    if "anyOf" in field or "oneOf" in field:
        forms = field.get("anyOf") or field["oneOf"]
        return " or ".join(dict.fromkeys(_type(schema, form) for form in forms if form.get("type") != "null"))
    if "enum" in field or "const" in field:
        return ", ".join(map(str, field.get("enum") or [field["const"]]))
    if field.get("type") == "array":
        return f"list of {_type(schema, field.get('items', {}))}{_length(field)}"
    bounds = [
        f"{sign} {_number(field[key])}"
        for key, sign in (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))
        if key in field
    ]
    return " ".join([field.get("type", "any"), *bounds])


def _length(field: Schema) -> str:
    return f", at most {field['maxItems']}" if "maxItems" in field else ""


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) >= 1e15 or value != int(value) else f"{value:.0f}"


def _foreign_fields() -> str:
    """The fields of other servers by class and server."""
    fields = sorted(FOREIGN_FIELDS.values(), key=lambda field: (list(_CLASSES).index(field.kind), field.servers))
    parts = []
    for kind, members in groupby(fields, key=lambda field: field.kind):
        rows = _rows(_foreign_row(field) for field in members)
        parts.append(f"<details><summary>{kind}: {escape(_CLASSES[kind])}</summary>{rows}</details>")
    return (
        "<h2>Fields of other servers</h2><p>Null asks for nothing, in every field. Fields that nobody knows are "
        "dropped and named in the warnings, or refused with <code>ROUTELM_STRICT=true</code>.</p>" + "".join(parts)
    )


def _foreign_row(field: ForeignField) -> tuple[str, ...]:
    neutral = ", ".join(json.dumps(value) for value in field.neutral)
    asks_nothing = f"asks for nothing: <code>{escape(neutral)}</code>" if neutral else ""
    return f"<code>{escape(field.name)}</code>", escape(field.servers), asks_nothing, _text(field.otherwise)


def _resolve(schema: Schema, field: Schema) -> Schema:
    if "$ref" not in field:
        return field
    resolved: Schema = schema["components"]["schemas"][field["$ref"].rsplit("/", 1)[1]]
    return resolved

"""GET /docs: the endpoints and their fields on one page that needs no network. The machine's form: /openapi.json."""

from collections.abc import Iterator
from html import escape
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse

router = APIRouter(include_in_schema=False)

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
code { font-size: 0.9em; } h2 { margin-top: 2rem; } pre { white-space: pre-wrap; }
table { border-collapse: collapse; width: 100%; } td, th { text-align: left; padding: 0.2rem 1rem 0.2rem 0; }
td { border-top: 1px solid #8884; vertical-align: top; } summary { cursor: pointer; }
:root { color-scheme: light dark; }
"""


@router.get("/docs")
async def docs(request: Request) -> HTMLResponse:
    """Rendered from the OpenAPI schema, so it cannot be out of date."""
    schema: dict[str, Any] = request.app.openapi()
    parts = "".join(_endpoint(schema, path, method, entry) for path, method, entry in _endpoints(schema))
    title = escape(f"{schema['info']['title']} {schema['info']['version']}")
    return HTMLResponse(
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{title}</title><style>{_STYLE}</style>"
        f"<h1>{title}</h1><p>{escape(schema['info'].get('description', ''))}</p>"
        f"<p>The same for machines: <a href='openapi.json'>openapi.json</a>.</p>{parts}</html>"
    )


def _endpoints(schema: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in schema["paths"].items():
        for method, entry in methods.items():
            yield path, method, entry


def _endpoint(schema: dict[str, Any], path: str, method: str, entry: dict[str, Any]) -> str:
    head = f"<h2><code>{method.upper()} {escape(path)}</code></h2><p><b>{escape(entry['summary'])}.</b> "
    text = f"{escape(entry.get('description', ''))}</p>"
    body = entry.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    return head + text + (_fields(schema, _resolve(schema, body)) if body else "")


def _fields(schema: dict[str, Any], model: dict[str, Any]) -> str:
    required = model.get("required", [])
    told = sorted(model.get("properties", {}).items(), key=lambda item: _type(schema, item[1]) == "any")
    rows = "".join(
        f"<tr><td><code>{escape(name)}</code></td><td>{'required' if name in required else ''}</td>"
        f"<td>{escape(_type(schema, field))}</td><td>{escape(field.get('description', ''))}</td></tr>"
        for name, field in told  # what is only ignored or refused comes last
    )
    return f"<details><summary>Fields</summary><table>{rows}</table></details>"


def _type(schema: dict[str, Any], field: dict[str, Any]) -> str:
    """A field's type and bounds in words."""
    field = _resolve(schema, field)
    if "anyOf" in field or "oneOf" in field:
        forms = field.get("anyOf") or field["oneOf"]
        return " or ".join(_type(schema, form) for form in forms if form.get("type") != "null")
    if "enum" in field or "const" in field:
        return ", ".join(map(str, field.get("enum") or [field["const"]]))
    if field.get("type") == "array":
        return f"list of {_type(schema, field.get('items', {}))}"
    bounds = [
        f"{sign} {field[key]}"
        for key, sign in (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))
        if key in field
    ]
    return " ".join([field.get("type", "any"), *bounds])


def _resolve(schema: dict[str, Any], field: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in field:
        return field
    resolved: dict[str, Any] = schema["components"]["schemas"][field["$ref"].rsplit("/", 1)[1]]
    return resolved

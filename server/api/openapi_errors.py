"""The errors and the API key in /openapi.json, declared once for all endpoints."""

from typing import Any, Literal

from fastapi import APIRouter
from fastapi.routing import APIRoute
from pydantic import BaseModel

from server.middleware.auth import HEALTH_PATHS

Responses = dict[int | str, dict[str, Any]]

_KEY = {"HTTPBearer": {"type": "http", "description": "Where the server has API keys.", "scheme": "bearer"}}


class ErrorFields(BaseModel):
    """`param` names the field that is wrong, `code` is for programs."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(BaseModel):
    """Errors of OpenAI's API and of the tasks."""

    error: ErrorFields


class AnthropicErrorFields(BaseModel):
    type: str
    message: str


class AnthropicError(BaseModel):
    """Errors of Anthropic's API."""

    type: Literal["error"]
    error: AnthropicErrorFields


class OllamaError(BaseModel):
    """Errors of Ollama's API."""

    error: str


_MEANINGS: dict[int | str, str] = {
    400: "A value cannot be used, or the prompt is too long.",
    401: "The API key is missing or wrong.",
    403: "The API key may not do this.",
    404: "The model is not served here, or there is no such file or batch.",
    409: "It cannot be done now.",
    413: "The body is larger than the server reads.",
    415: "The body is compressed.",
    429: "The queue is full, or the API key is at its limit.",
    500: "The server failed.",
    503: "The server is stopping.",
    "default": "Another error, in the same shape.",
}
_OF_POSTS = (400, 404, 413, 415, 429, 500, 503)
_RETRY_AFTER = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 1}}}


def errors(*statuses: int | str, shape: type[BaseModel] = ErrorAnswer) -> Responses:
    """For `responses=` of a route or a router. `default` stands for all others, also for FastAPI's own 422.

    Every router has `default`, which brings the schema of the shape; the others refer to it. FastAPI would make a
    validator for each of them, hundreds at the start, that validate nothing.
    """
    schema = {"application/json": {"schema": {"$ref": f"#/components/schemas/{shape.__name__}"}}}
    answers: Responses = {
        status: {"description": _MEANINGS[status], "content": schema} for status in statuses if status != "default"
    }
    if "default" in statuses:
        answers["default"] = {"description": _MEANINGS["default"], "model": shape}
    for status in (429, 503):
        if status in answers:
            answers[status]["headers"] = _RETRY_AFTER
    return answers


def router_options(router: APIRouter) -> dict[str, Any]:
    """Arguments of `include_router`: the errors that the routes share. Health routes have none."""
    routes = [route for route in router.routes if isinstance(route, APIRoute)]
    if all(route.path in HEALTH_PATHS for route in routes):
        return {}
    posts = any("POST" in (route.methods or ()) for route in routes)
    statuses = (401, 403, *(_OF_POSTS if posts else ()), "default")
    return {"responses": errors(*statuses, shape=_shape(routes[0].path))}


def with_key(schema: dict[str, Any]) -> dict[str, Any]:
    """The OpenAPI schema with the API key, which all operations take but those of health.

    FastAPI would write it for a dependency of the routes, which it would then resolve for every request.
    """
    for path, operations in schema["paths"].items():
        for operation in operations.values() if path not in HEALTH_PATHS else ():
            operation["security"] = [{name: []} for name in _KEY]
    schema["components"]["securitySchemes"] = _KEY
    return schema


def _shape(path: str) -> type[BaseModel]:
    """The same choice as in RequestError.body."""
    if path.startswith("/api/"):
        return OllamaError
    return AnthropicError if path.startswith("/v1/messages") else ErrorAnswer

"""Every error as OpenAI's `{"error": {message, type, param, code}}`."""

import re
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from server.errors import EngineFailedError, InvalidRequestError, RequestError

_TAG = re.compile(r"\[.*\]")  # pydantic's marks for "the key of" and for the forms of a union: no part of the path
_CODES = {
    "missing": "missing_required_parameter",
    "extra_forbidden": "unknown_parameter",
    "unsupported_parameter": "unsupported_parameter",
    "json_invalid": "invalid_json",
}


def add_exception_handlers(app: FastAPI) -> None:
    """Register one handler per family of exceptions."""

    async def request_error(_: Request, error: Any) -> Response:
        return _answer(error)

    async def validation_error(_: Request, error: Any) -> Response:
        return _answer(invalid_body(error))

    async def http_error(request: Request, error: Any) -> Response:
        return _answer(_from_http(request, error), error.headers)

    async def anything_else(_: Request, error: Exception) -> Response:
        return _answer(EngineFailedError("Something went wrong inside the server; it is in the server's log."))

    app.add_exception_handler(RequestError, request_error)
    app.add_exception_handler(RequestValidationError, validation_error)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(Exception, anything_else)


def invalid_body(error: RequestValidationError) -> InvalidRequestError:
    """The first thing that is wrong with a body, with the path of the field: `messages.0.content`."""
    first = error.errors()[0]
    kind, location = first["type"], first["loc"]
    if kind == "json_invalid":
        return InvalidRequestError(
            f"The body is not valid JSON: {first['ctx']['error']} at character {location[-1]}.", code=_CODES[kind]
        )
    path = [str(part) for part in location[1:] if not _TAG.fullmatch(str(part))]
    if not path:
        hint = "Send a JSON object, with the header `Content-Type: application/json`."
        return InvalidRequestError(f"The body cannot be used. {hint}", code=_CODES.get(kind, "invalid_value"))
    param = ".".join(path)
    message = "this field is not known here" if kind == "extra_forbidden" else first["msg"]
    return InvalidRequestError(f"{param}: {message}.", param=param, code=_CODES.get(kind, "invalid_value"))


def _from_http(request: Request, error: HTTPException) -> RequestError:
    messages = {
        404: f"There is nothing at {request.url.path}; see /docs.",
        405: f"{request.method} is not allowed at {request.url.path}.",
        413: "The request body is larger than this server reads.",
    }
    answer = RequestError(messages.get(error.status_code, str(error.detail)))
    answer.status = error.status_code
    if error.status_code < 500:
        answer.type = "invalid_request_error"
    answer.code = {404: "not_found", 405: "method_not_allowed", 413: "body_too_large"}.get(error.status_code)
    return answer


def _answer(error: RequestError, headers: Any = None) -> Response:
    return JSONResponse(error.body(), error.status, {**(headers or {}), **error.headers()})

"""Every error in the shape of the API that was called: `{"error": {message, type, param, code}}` for OpenAI's."""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

from server.api.validation_errors import unreadable_body
from server.errors import ClientGoneError, EngineFailedError, RequestError


def add_exception_handlers(app: FastAPI) -> None:
    """Register one handler per family of exceptions."""

    async def request_error(request: Request, error: Any) -> Response:
        return _answer(request, error)

    async def validation_error(request: Request, error: Any) -> Response:
        return _answer(request, unreadable_body(error.errors()[0]))

    async def client_gone(request: Request, error: Any) -> Response:
        return _answer(request, ClientGoneError())

    async def http_error(request: Request, error: Any) -> Response:
        return _answer(request, _from_http(request, error), error.headers)

    async def anything_else(request: Request, error: Exception) -> Response:
        return _answer(request, EngineFailedError("Something went wrong inside the server; it is in the server's log."))

    app.add_exception_handler(RequestError, request_error)
    app.add_exception_handler(RequestValidationError, validation_error)
    app.add_exception_handler(ClientDisconnect, client_gone)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(Exception, anything_else)


def _from_http(request: Request, error: HTTPException) -> RequestError:
    if isinstance(error.__cause__, ClientDisconnect):  # FastAPI takes it for a body that cannot be parsed
        return ClientGoneError()
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


def _answer(request: Request, error: RequestError, headers: Any = None) -> Response:
    return JSONResponse(error.body(request.url.path), error.status, {**(headers or {}), **error.headers()})

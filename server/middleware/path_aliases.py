"""Other spellings of requests: a slash at the end, the endpoints of /v1 without that prefix, JSON sent as a form."""

from collections.abc import Sequence

from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Receive, Scope, Send

PREFIX = "/v1"
OLLAMA = "/api/"


class PathAliases:
    """Rewrites a path before it is routed.

    It is an inner middleware: keys and logs see the path as it was sent, and what the API key closes stays closed
    under each spelling. The first part of a path decides: a route that has a path without /v1 keeps it.
    """

    def __init__(self, app: ASGIApp, routers: Sequence[APIRouter]) -> None:
        paths = [route.path for router in routers for route in router.routes if isinstance(route, APIRoute)]
        self._app = app
        self._below_prefix = {_first_part(path[len(PREFIX) :]) for path in paths if path.startswith(f"{PREFIX}/")}
        self._below_prefix -= {_first_part(path) for path in paths}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope = {**scope, "path": self._canonical(scope["path"]), "headers": _headers(scope)}
        await self._app(scope, receive, send)

    def _canonical(self, path: str) -> str:
        path = path.rstrip("/") or "/"
        return PREFIX + path if _first_part(path) in self._below_prefix else path


def _headers(scope: Scope) -> list[tuple[bytes, bytes]]:
    """The headers; to Ollama's API, `curl -d` alone sends JSON, as Ollama's own examples do.

    Not from web pages: a browser lets any page send a form without asking.
    """
    headers: list[tuple[bytes, bytes]] = list(scope["headers"])
    if not scope["path"].startswith(OLLAMA) or any(name == b"origin" for name, _ in headers):
        return headers
    return [(name, b"application/json" if name == b"content-type" else value) for name, value in headers]


def _first_part(path: str) -> str:
    return path.removeprefix("/").partition("/")[0]

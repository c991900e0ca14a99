"""The API key: every path needs it, except those on the public list."""

import hmac
from collections.abc import Iterable, Iterator

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from server.errors import UnauthorizedError

HEALTH_PATHS = frozenset({"/health", "/health/live", "/health/ready"})


class ApiKeyAuth:
    """Denies by default, which includes paths that do not exist, every method, and websockets.

    `public` holds exact paths. Keys are compared in constant time.
    """

    def __init__(self, app: ASGIApp, api_key: str, public: frozenset[str] = HEALTH_PATHS) -> None:
        self._app = app
        self._key = api_key.encode()
        self._public = public

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or scope["path"] in self._public or self._has_key(scope):
            return await self._app(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": 1008})
        error = UnauthorizedError(
            "Send the API key of this server as `Authorization: Bearer <key>` or `x-api-key: <key>`."
        )
        return await JSONResponse(error.body(scope["path"]), error.status, error.headers())(scope, receive, send)

    def _has_key(self, scope: Scope) -> bool:
        """Compares bytes: as text, the last byte of a UTF-8 key can look like a space and would be stripped."""
        return any(hmac.compare_digest(key.strip(b" \t"), self._key) for key in _keys(scope["headers"]))


def _keys(headers: Iterable[tuple[bytes, bytes]]) -> Iterator[bytes]:
    """The keys of OpenAI's clients (a bearer token) and of Anthropic's (x-api-key)."""
    for name, value in headers:
        if name == b"x-api-key":
            yield value
        elif name == b"authorization":
            scheme, _, key = value.partition(b" ")
            if scheme.lower() == b"bearer":
                yield key

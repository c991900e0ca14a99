"""The API key: every path is closed unless it is on the public list."""

import hmac

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from server.errors import UnauthorizedError

HEALTH_PATHS = frozenset({"/health", "/health/live", "/health/ready"})


class ApiKeyAuth:
    """Default-deny: also for paths that do not exist, for every method, and for websockets.

    `public` are exact paths. The key is compared in constant time.
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
        error = UnauthorizedError("Send the API key of this server as `Authorization: Bearer <key>`.")
        return await JSONResponse(error.body(), error.status, error.headers())(scope, receive, send)

    def _has_key(self, scope: Scope) -> bool:
        """Compares bytes: as text, the last byte of a UTF-8 key can look like a space and would be stripped."""
        value = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        scheme, _, key = value.partition(b" ")
        return hmac.compare_digest(key.strip(b" \t"), self._key) and scheme.lower() == b"bearer"

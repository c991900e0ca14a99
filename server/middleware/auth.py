"""API keys: every path needs one, except those on the public list."""

from collections.abc import Iterable, Iterator
from itertools import islice

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from server.errors import ForbiddenError, RateLimitError, RequestError, UnauthorizedError
from server.middleware.api_keys import ApiKey, ApiKeys, KeyScope

HEALTH_PATHS = frozenset({"/health", "/health/live", "/health/ready"})
MAX_SECRETS = 4  # of a request that are looked up: thousands in its headers would hold up the event loop

_INFERENCE = frozenset({KeyScope.INFERENCE})
_SCOPES = {
    "metrics": frozenset({KeyScope.METRICS}),
    "files": frozenset({KeyScope.BATCHES}),
    "batches": frozenset({KeyScope.BATCHES}),
    "requests": frozenset({KeyScope.INFERENCE, KeyScope.ADMIN}),
}


class ApiKeyAuth:
    """Denies by default, which includes paths that do not exist, every method, and websockets.

    `public` holds exact paths. Later layers find the key of a request in `scope["api_key"]`. POST requests count
    against the limits of their key.
    """

    def __init__(self, app: ASGIApp, keys: ApiKeys, public: frozenset[str] = HEALTH_PATHS) -> None:
        self._app = app
        self._keys = keys
        self._public = public

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or scope["path"] in self._public:
            return await self._app(scope, receive, send)
        try:
            key = self._key(scope)
        except RequestError as error:
            return await _refuse(error, scope, receive, send)
        if scope["method"] != "POST":
            return await self._app(scope, receive, send)
        try:
            with self._keys.usage_of(key).request(key):
                scope["app"].state.metrics.keys.accepted(key.name)
                await self._app(scope, receive, send)
        except RateLimitError as error:  # raised before the application is called, which raises no RequestError
            scope["app"].state.metrics.keys.refused(key.name)
            await _refuse(error, scope, receive, send)

    def _key(self, scope: Scope) -> ApiKey:
        """The key of a request, entered into its scope. Compares bytes: as text, the last byte of a UTF-8 key can look
        like a space and would be stripped.
        """
        secrets = islice(_secrets(scope["headers"]), MAX_SECRETS)
        found = (self._keys.find(secret.strip(b" \t")) for secret in secrets)
        key = next((key for key in found if key is not None), None)
        if key is None or scope["type"] != "http":
            raise UnauthorizedError(
                "Send an API key of this server as `Authorization: Bearer <key>` or `x-api-key: <key>`."
            )
        check_scopes(key, needed_scopes(scope["method"], scope["path"]))
        scope["api_key"] = key
        return key


def needed_scopes(method: str, path: str) -> frozenset[KeyScope]:
    """One of these scopes is needed for a path, in any of its spellings."""
    first = path.strip("/").removeprefix("v1").strip("/").partition("/")[0]
    if first in _SCOPES:
        return _SCOPES[first]
    return frozenset(KeyScope) if method in ("GET", "HEAD", "OPTIONS") else _INFERENCE


def check_scopes(key: ApiKey, needed: frozenset[KeyScope]) -> None:
    """Raises ForbiddenError if the key has none of the scopes."""
    if not needed & key.scopes:
        raise ForbiddenError(
            f"The API key '{key.name}' does not have the scope {' or '.join(sorted(needed))}, which this needs."
        )


async def _refuse(error: RequestError, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] != "http":
        await send({"type": "websocket.close", "code": 1008})
        return
    await JSONResponse(error.body(scope["path"]), error.status, error.headers())(scope, receive, send)


def _secrets(headers: Iterable[tuple[bytes, bytes]]) -> Iterator[bytes]:
    """The keys of OpenAI's clients (a bearer token) and of Anthropic's (x-api-key)."""
    for name, value in headers:
        if name == b"x-api-key":
            yield value
        elif name == b"authorization":
            scheme, _, key = value.partition(b" ")
            if scheme.lower() == b"bearer":
                yield key

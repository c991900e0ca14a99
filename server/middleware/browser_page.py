"""What `/` is: the page for browsers, which accept HTML, and a short text with a curl command for all others."""

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

PAGE = "/page"


class BrowserPage:
    """Routes `/` to the page if the client accepts HTML by name.

    It comes before the API key, which the page's files do not need: they say nothing about the model, and ask for it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if _is_browser_at_root(scope):
            scope = {**scope, "path": PAGE, "raw_path": PAGE.encode()}
        await self._app(scope, receive, send)


def _is_browser_at_root(scope: Scope) -> bool:
    if scope["type"] != "http" or scope["path"] != "/" or scope["method"] not in ("GET", "HEAD"):
        return False
    return "text/html" in Headers(scope=scope).get("accept", "")

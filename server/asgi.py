"""Requests that reach an application without a connection of its own."""

from collections.abc import Sequence
from typing import Any


def http_scope(
    method: str,
    path: str,
    headers: Sequence[tuple[bytes, bytes]],
    *,
    raw_path: bytes | None = None,
    query_string: bytes = b"",
) -> dict[str, Any]:
    """The ASGI scope of such a request. `raw_path`: the path as it was sent, percent-encoded."""
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode() if raw_path is None else raw_path,
        "root_path": "",
        "query_string": query_string,
        "headers": list(headers),
        "client": None,
        "server": None,
        "state": {},
    }

"""HTTP calls of an evaluation: patient with a full server, clear about everything else."""

import time
from typing import Any

import httpx

from model.evaluation.requests import ModelError
from server.commands.common.api_client import is_local

RETRIES = 8
LONGEST_WAIT = 30.0  # seconds, whatever the server asks for
SHORTEST_WAIT = 0.05

Body = dict[str, Any]


class ServerError(ModelError):
    """The server refused a request or failed; the message says which and why. `status` is 0 without an answer."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class NoSuchEndpointError(ServerError):
    """The server does not have this endpoint."""


class Endpoints:
    """JSON in, JSON out, at one server; safe to call from several threads."""

    def __init__(self, url: str, *, api_key: str | None, connections: int, timeout: float) -> None:
        """`url` may end in /v1. ValueError where it has no scheme."""
        root = url.rstrip("/").removesuffix("/v1")
        if not root.startswith(("http://", "https://")):
            raise ValueError(f"url {url!r} has no scheme: use one such as http://127.0.0.1:8000")
        headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        limits = httpx.Limits(max_connections=connections)
        self._http = httpx.Client(
            base_url=root, headers=headers, timeout=timeout, limits=limits, trust_env=not is_local(root)
        )

    def close(self) -> None:
        self._http.close()

    def get(self, path: str) -> Body:
        return self._send("GET", path, None)

    def post(self, path: str, body: Body) -> Body:
        return self._send("POST", path, body)

    def _send(self, method: str, path: str, body: Body | None) -> Body:
        """Send until the server has room for the request."""
        for _ in range(RETRIES):
            try:
                answer = self._http.request(method, path, json=body)
            except httpx.HTTPError as error:
                raise ServerError(f"{method} {self._http.base_url}{path} failed: {error!r}") from error
            if answer.status_code not in (429, 503):
                return _read(answer, path)
            time.sleep(_wait(answer))
        raise ServerError(f"{path} had no room {RETRIES} times: {answer.text[:300]}", answer.status_code)


def _read(answer: httpx.Response, path: str) -> Body:
    status = answer.status_code
    if status in (404, 405) and "model_not_found" not in answer.text:
        raise NoSuchEndpointError(f"the server has no {path}", status)
    if status != 200:
        raise ServerError(f"{path} answered {status}: {answer.text[:300]}", status)
    found: Body = answer.json()
    return found


def _wait(answer: httpx.Response) -> float:
    """Seconds that the server asks to wait."""
    try:
        asked = float(answer.headers.get("Retry-After", 1))
    except ValueError:  # a date
        asked = 1.0
    return min(max(asked, SHORTEST_WAIT), LONGEST_WAIT)

"""A client of the HTTP API for commands: of a running server, or of a model loaded in this process."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from server.commands.common.load_backend import load_backend
from server.commands.common.logs import configure_logging
from server.commands.common.options import read_settings

if TYPE_CHECKING:
    import httpx

SECONDS_TO_CONNECT = 5.0
UNIX = "unix:"  # before the path of a Unix domain socket, as `routelm serve --uds` logs it


class AnswerError(Exception):
    """The server refused, failed or cannot be reached. The message is written for the user at the terminal."""


@contextmanager
def server_url(url: str, model: str | None, **settings: Any) -> Iterator[str]:
    """Yield the base URL of the server at `url`, or if `model` is given, of one in this process with these settings."""
    if model is None:
        yield base_url(url)
        return
    from server.settings import LONGEST_WAIT
    from server.startup.uvicorn_server import in_background

    configure_logging("warning")
    # the only client of a server in this process waits for its answers
    read = read_settings(**({"model": model, "max_queue_wait": LONGEST_WAIT} | settings))
    with in_background(read, load_backend(read, measure=False)) as own_url:
        yield own_url


def base_url(url: str) -> str:
    """The URL without the /v1 that other clients want, and with http:// where it begins with the host."""
    if "://" not in url and not url.startswith(UNIX):
        url = f"http://{url}"
    return url.rstrip("/").removesuffix("/v1")


@contextmanager
def http_client(url: str) -> Iterator["httpx.Client"]:
    """A client for a base URL, with the API key of ROUTELM_API_KEY if it is set."""
    import httpx

    key = read_settings().api_key
    headers = {} if key is None else {b"Authorization": f"Bearer {key.get_secret_value()}".encode()}
    timeout = httpx.Timeout(None, connect=SECONDS_TO_CONNECT)
    transport = None
    if url.startswith(UNIX):
        transport, url = httpx.HTTPTransport(uds=url.removeprefix(UNIX)), "http://localhost"
    with httpx.Client(
        base_url=url, headers=headers, timeout=timeout, transport=transport, trust_env=not is_local(url)
    ) as client:
        yield client


def is_local(url: str) -> bool:
    """Whether a URL is of this machine, which no proxy of the environment can reach."""
    import httpx

    return httpx.URL(url).host in ("127.0.0.1", "localhost", "::1")


def stream_events(client: "httpx.Client", path: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Post `body` and yield the events of the response. Closing the iterator stops the generation.

    Raises AnswerError for anything that goes wrong.
    """
    import httpx

    try:
        with client.stream("POST", path, json={**body, "stream": True}) as response:
            if response.status_code != 200:
                response.read()
                raise AnswerError(_error_message(response))
            for line in response.iter_lines():
                if line.startswith("data: ") and line != "data: [DONE]":
                    yield _checked(json.loads(line.removeprefix("data: ")))
    except httpx.ConnectError:
        raise AnswerError(
            f"No server answers at {client.base_url}. Start one with `routelm serve`, or add `--model bundled`, which "
            "needs none."
        ) from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise AnswerError(f"The connection broke: {error}") from None


def _checked(event: dict[str, Any]) -> dict[str, Any]:
    if "error" in event:
        raise AnswerError(str(event["error"]["message"]))
    return event


def _error_message(response: "httpx.Response") -> str:
    if response.status_code == 401:
        return "The server asks for an API key: set ROUTELM_API_KEY to the same value as there."
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"The server answered {response.status_code}."

"""Asking a server from the command line: streamed answers as plain text pieces."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from server.commands.common.load_backend import load_backend
from server.commands.common.logs import configure_logging
from server.commands.common.options import read_settings

if TYPE_CHECKING:
    import httpx

SECONDS_TO_CONNECT = 5.0


class AnswerError(Exception):
    """The server refused, failed or cannot be reached; the message is for the person at the terminal."""


@contextmanager
def server_url(url: str, model: str | None, **settings: Any) -> Iterator[str]:
    """The URL to ask: the given one, or that of an engine in this process, with these settings, if `model` is given."""
    if model is None:
        yield url
        return
    from server.startup.uvicorn_server import in_background

    configure_logging("warning")
    read = read_settings(model=model, **settings)
    with in_background(read, load_backend(read)) as own_url:
        yield own_url


@contextmanager
def http_client(url: str) -> Iterator["httpx.Client"]:
    """A client with the API key of ROUTELM_API_KEY, if it is set."""
    import httpx

    key = read_settings().api_key
    headers = {} if key is None else {"Authorization": f"Bearer {key.get_secret_value()}"}
    timeout = httpx.Timeout(None, connect=SECONDS_TO_CONNECT)
    is_here = httpx.URL(url).host in ("127.0.0.1", "localhost", "::1")  # no proxy of the environment can reach that
    with httpx.Client(base_url=url, headers=headers, timeout=timeout, trust_env=not is_here) as client:
        yield client


def stream_events(client: "httpx.Client", path: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Post `body` and yield the events of the answer. Closing the iterator stops the server's work. AnswerError."""
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
        raise AnswerError(f"No server answers at {client.base_url}. Start one: routelm serve") from None
    except httpx.HTTPError as error:
        raise AnswerError(f"The connection broke: {error}") from None


def fail(error: AnswerError) -> typer.Exit:
    """Tell what went wrong; raise what is returned."""
    typer.secho(str(error), fg=typer.colors.RED, err=True)
    return typer.Exit(1)


def _checked(event: dict[str, Any]) -> dict[str, Any]:
    if "error" in event:
        raise AnswerError(str(event["error"]["message"]))
    return event


def _error_message(response: "httpx.Response") -> str:
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"The server answered {response.status_code}."

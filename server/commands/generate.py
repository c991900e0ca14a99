"""`routelm generate`: continue a text, once."""

import sys
from typing import Annotated

import typer

from server.commands.common.errors import failure
from server.commands.common.options import DEFAULT_URL, InProcessModel, MaxTokens, Seed, Temperature, Url

REQUEST_FAILED = 1  # exit code


def generate(
    prompt: Annotated[str, typer.Argument(help="The text to continue; - reads standard input.")],
    url: Url = DEFAULT_URL,
    model: InProcessModel = None,
    max_tokens: MaxTokens = 256,
    temperature: Temperature = 0.0,
    seed: Seed = None,
) -> None:
    """Continue a text and print the continuation as it is generated.

    Uses a running server, or with --model loads the checkpoint itself:  routelm generate --model bundled "Once upon"
    """
    from server.commands.common.api_client import AnswerError, http_client, server_url, stream_events

    text = sys.stdin.read() if prompt == "-" else prompt
    body = {"prompt": text, "max_tokens": max_tokens, "temperature": temperature, "seed": seed}
    try:
        with server_url(url, model) as base_url, http_client(base_url) as client:
            for event in stream_events(client, "/v1/generate", body):
                typer.echo(event.get("delta", ""), nl=False)
    except AnswerError as error:
        raise failure(str(error), REQUEST_FAILED) from None
    typer.echo()

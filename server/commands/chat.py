"""`routelm chat`: talk to a model in the terminal."""

from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

from server.commands.common.options import DEFAULT_URL, InProcessModel, MaxTokens, Seed, Temperature, Url

if TYPE_CHECKING:
    import httpx

HELP = "/system TEXT sets the system message, /reset forgets the conversation, /quit leaves. Ctrl-C stops an answer."


def chat(
    url: Url = DEFAULT_URL,
    model: InProcessModel = None,
    system: Annotated[str | None, typer.Option(help="System message to begin with.")] = None,
    max_tokens: MaxTokens = 512,
    temperature: Temperature = 0.7,
    seed: Seed = None,
) -> None:
    """Talk to the model. Answers are shown as they are generated.

    Uses a running server, or with --model loads the checkpoint itself:  routelm chat --model bundled
    """
    from server.commands.common.api_client import http_client, server_url

    options = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed}
    with server_url(url, model) as base_url, http_client(base_url) as client:
        typer.secho(HELP, dim=True)
        ChatSession(client, options, system).run()


class ChatSession:
    """The messages so far, and the loop that reads a line and prints an answer."""

    def __init__(self, client: "httpx.Client", options: dict[str, Any], system: str | None) -> None:
        self._client = client
        self._options = options
        self._system = system
        self._turns: list[dict[str, str]] = []

    def run(self) -> None:
        """Read and answer until /quit or the end of the input."""
        with suppress(ImportError):  # not every Python is built with it
            import readline  # noqa: F401  input() then has line editing and history

        while True:
            try:
                line = input("> ").strip()
            except (EOFError, KeyboardInterrupt):
                typer.echo()
                return
            if line == "/quit":
                return
            if line.startswith("/"):
                self._command(line)
            elif line:
                self._answer(line)

    def _command(self, line: str) -> None:
        name, _, text = line.partition(" ")
        if name == "/reset":
            self._turns.clear()
        elif name == "/system":
            self._system = text.strip() or None
        else:
            typer.secho(HELP, dim=True)

    def _answer(self, line: str) -> None:
        """Print an answer. A turn that fails is dropped; of one that the user stops, the part so far is kept."""
        from server.commands.common.api_client import AnswerError, stream_events

        head = [] if self._system is None else [{"role": "system", "content": self._system}]
        messages = [*head, *self._turns, {"role": "user", "content": line}]
        pieces: list[str] = []
        try:
            for event in stream_events(self._client, "/v1/chat/completions", {**self._options, "messages": messages}):
                piece = event["choices"][0]["delta"].get("content", "")
                pieces.append(piece)
                typer.echo(piece, nl=False)
        except KeyboardInterrupt:
            typer.secho(" [stopped]", dim=True, nl=False)
        except AnswerError as error:
            typer.secho(str(error), fg=typer.colors.RED, err=True)
            return
        typer.echo()
        self._turns += [{"role": "user", "content": line}, {"role": "assistant", "content": "".join(pieces)}]

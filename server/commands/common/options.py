"""Options that several commands share, and the settings made from options and environment."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from server.commands.common.errors import CANNOT_BE_DONE

if TYPE_CHECKING:
    from server.settings import Settings

DEFAULT_URL = "http://127.0.0.1:8000"

Url = Annotated[str, typer.Option(help="Address of a running server, with or without /v1.", envvar="ROUTELM_URL")]
InProcessModel = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="Load this model (a directory, a .gguf file, a hub id, or `bundled`) instead of asking a server.",
    ),
]
MaxTokens = Annotated[int, typer.Option(min=1, help="Most tokens of an answer.")]
Temperature = Annotated[float, typer.Option(min=0, max=2, help="0: always the likeliest token.")]
Seed = Annotated[int | None, typer.Option(help="The same seed gives the same answer.")]


def read_settings(**given: Any) -> "Settings":
    """Settings from the options that are not None and from ROUTELM_* variables; exits with code 2 if one is invalid."""
    from pydantic import ValidationError

    from server.settings import Settings

    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        for problem in error.errors():
            typer.secho(_message(problem["loc"], problem["msg"]), fg=typer.colors.RED, err=True)
        raise typer.Exit(CANNOT_BE_DONE) from None


def _message(location: tuple[int | str, ...], message: str) -> str:
    """What is wrong with a setting, with its names on the command line and in the environment."""
    message = message.removeprefix("Value error, ")
    if not location:  # concerns several settings, which the message names
        return message
    name = ".".join(map(str, location))
    return f"--{name.replace('_', '-')} (ROUTELM_{name.upper()}): {message}"

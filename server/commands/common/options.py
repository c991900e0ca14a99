"""Options that several commands share, and the settings made from options and environment."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from server.settings import Settings

DEFAULT_URL = "http://127.0.0.1:8000"

Url = Annotated[str, typer.Option(help="Address of a running server, with or without /v1.", envvar="ROUTELM_URL")]
InProcessModel = Annotated[
    str | None,
    typer.Option("--model", help="Load this model (a directory, a hub id, or `bundled`) instead of asking a server."),
]
MaxTokens = Annotated[int, typer.Option(min=1, help="Most tokens of an answer.")]
Temperature = Annotated[float, typer.Option(min=0, max=2, help="0: always the likeliest token.")]
Seed = Annotated[int | None, typer.Option(help="The same seed gives the same answer.")]


def read_settings(**given: Any) -> "Settings":
    """Settings from options that were given (not None) and from ROUTELM_* variables; exits with 2 if one is wrong."""
    from pydantic import ValidationError

    from server.settings import Settings

    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        for problem in error.errors():
            name = ".".join(str(part) for part in problem["loc"])
            option = "--" + name.replace("_", "-")
            typer.secho(f"{option} (ROUTELM_{name.upper()}): {problem['msg']}", fg=typer.colors.RED, err=True)
        raise typer.Exit(2) from None

"""`routelm serve`: the HTTP server. Its options are made from the fields of `Settings`."""

import gc
import linecache
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from inspect import Parameter, Signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from server.commands.common.errors import errors_in_one_line, failure
from server.commands.common.load_backend import load_backend
from server.commands.common.logs import configure_logging
from server.commands.common.options import read_settings

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

# annotation of a setting: type of its option, a list where the option may be repeated
OPTION_TYPES: dict[Any, Any] = {int: int, int | None: int, float: float, dict[str, Path]: list[str]}
POSITIONAL_MODEL = Annotated[str | None, typer.Argument(metavar="MODEL", help="The same as --model.")]
MODEL_GIVEN_TWICE = "MODEL and --model are the same: give one of them"
KEY_ON_COMMAND_LINE = (
    "--api-key: every user of this machine could read the key there; set ROUTELM_API_KEY or use --api-key-file"
)


def serve(**given: Any) -> None:
    """Serve a model over HTTP: OpenAI's API, /v1/translate, /v1/summarize, /v1/generate, /v1/analyze, /metrics.

    Every option can also be set as an environment variable: ROUTELM_PORT, ROUTELM_MODEL and so on. The API key is
    set with ROUTELM_API_KEY or --api-key-file. Stop the server with Ctrl-C or SIGTERM: running requests finish first.
    """
    if given.pop("api_key") is not None:
        raise failure(KEY_ON_COMMAND_LINE)
    settings = read_settings(**given)

    configure_logging(settings.log_level, as_json=settings.log_format == "json")
    with ExitStack() as stack:
        with garbage_collection_paused():
            from server.batches.directory import open_batch_directory
            from server.middleware.api_keys import ApiKeys
            from server.startup.listeners import bound
            from server.startup.preload_torch import preload_torch

            preload_torch()

            from server.startup.uvicorn_server import run

            with errors_in_one_line():
                ApiKeys.from_settings(settings)  # before the model is loaded: a file that cannot be used
                listeners = stack.enter_context(bound(settings))
                batch_directory = stack.enter_context(open_batch_directory(settings))
            linecache.clearcache()  # torch has put its sources there; loading reuses their memory
            open_backend = load_backend(settings)
        run(settings, open_backend, listeners, batch_directory)


@contextmanager
def garbage_collection_paused() -> Iterator[None]:
    """Do not search for garbage in the block, and never again in what it leaves.

    Importing and loading create some 360,000 objects that stay. Searching them again and again takes a seventh of the
    start, and a full collection would stall a running server for a tenth of a second.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


class ServeCommand(TyperCommand):
    """The command `serve`. Its options are built when it is called, because importing `Settings` imports pydantic."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        return with_setting_options(serve).make_context(*args, **kwargs)


def with_setting_options(function: Callable[..., None]) -> TyperCommand:
    """A command that calls `function` with an option for each setting, None where it was not given.

    The help shows the defaults, but they are not the options' defaults: the environment may set what is not given.
    """
    from server.settings import Settings

    def command(positional_model: str | None, **given: Any) -> None:
        if positional_model is not None and given["model"] is not None:
            raise failure(MODEL_GIVEN_TWICE)
        function(**given | {"model": positional_model or given["model"]})

    annotations: dict[str, Any] = {"positional_model": POSITIONAL_MODEL}
    annotations |= {name: _option(name, field) for name, field in Settings.model_fields.items()}
    command.__signature__ = Signature(  # type: ignore[attr-defined]
        [
            Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
            for name, annotation in annotations.items()
        ]
    )
    command.__doc__ = function.__doc__
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(command)
    built = typer.main.get_command(app)
    assert isinstance(built, TyperCommand)
    return built


def _option(name: str, field: "FieldInfo") -> Any:
    """Typer's annotation of the option for a setting. Numbers are parsed here, everything else by `Settings`."""
    if name == "api_key":  # other servers have this option: say what to do instead
        return Annotated[str | None, typer.Option(hidden=True)]
    if field.annotation is bool:
        return Annotated[bool | None, typer.Option(f"--{name.replace('_', '-')}", help=field.description)]
    kind: Any = str if _is_size(field) else OPTION_TYPES.get(field.annotation, str)
    return Annotated[kind | None, typer.Option(help=rf"{field.description} \[{_default(field)}]")]


def _default(field: "FieldInfo") -> str:
    from server.settings import Unset

    unset = [item.meaning for item in field.metadata if isinstance(item, Unset)]
    if unset:
        return unset[0]
    if _is_size(field):
        return f"{field.default // 2**20}MiB"
    if isinstance(field.default, list):
        return ",".join(field.default)
    return f"{field.default:g}" if field.annotation is float else str(field.default)


def _is_size(field: "FieldInfo") -> bool:
    """Whether values have units, such as 512MiB."""
    from server.settings import parse_size

    return any(getattr(item, "func", None) is parse_size for item in field.metadata)

"""The `routelm` command. Each sub-command is a file in server/commands and imports what it needs when it is called."""

from typing import Annotated

import typer

from server.commands import (
    average,
    batch,
    chat,
    compare,
    evaluate,
    generate,
    inspect,
    keys,
    prepare,
    pull,
    quantize,
    routing,
    serve,
    split_experts,
    train,
    train_tokenizer,
    version,
)

app = typer.Typer(
    help="Serve, talk to, train and evaluate a router-based language model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def options(
    version_asked: Annotated[
        bool,
        typer.Option("--version", help="Show the versions and exit.", is_eager=True, callback=version.print_and_exit),
    ] = False,
) -> None:
    """Options of `routelm` itself."""


app.command("serve", cls=serve.ServeCommand)(serve.serve)
app.command("chat")(chat.chat)
app.command("generate")(generate.generate)
app.add_typer(keys.app, name="keys")
app.command("pull")(pull.pull)
app.command("inspect")(inspect.inspect)
app.command("quantize")(quantize.quantize)
app.command("split-experts")(split_experts.split_experts)
app.command("train")(train.train)
app.command("train-tokenizer")(train_tokenizer.train_tokenizer)
app.command("prepare")(prepare.prepare)
app.command("average")(average.average)
app.command("evaluate")(evaluate.evaluate)
app.command("routing")(routing.routing)
app.add_typer(batch.app, name="batch")
app.add_typer(compare.app, name="compare")
app.command("version")(version.version)


def main() -> None:
    """The entry point that pyproject.toml names."""
    app()

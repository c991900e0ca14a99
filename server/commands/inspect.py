"""`routelm inspect`: describe a model and whether it fits here, without loading its weights."""

from typing import TYPE_CHECKING, Annotated

import typer

from server.commands.common.errors import errors_in_one_line

if TYPE_CHECKING:
    from server.startup.inspect_model import Inspection


def inspect(
    model: Annotated[str, typer.Argument(help="Checkpoint directory, GGUF file, hub id (org/name), or `bundled`.")],
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub id.")] = None,
    length: Annotated[int, typer.Option(min=1, help="Tokens of a sequence, prompt and answer together.")] = 2048,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, with sizes in bytes.")] = False,
) -> None:
    """Show family, layers, sizes, and how many sequences fit in this machine's memory, without loading the weights.

    routelm inspect bundled

    For a model on the hub only its configuration is fetched:  routelm inspect org/name
    """
    with errors_in_one_line():
        from server.startup.inspect_model import inspect_model

        found = inspect_model(model, revision, length)
    if as_json:
        import json
        from dataclasses import asdict

        typer.echo(json.dumps(asdict(found), indent=2))
    else:
        _print(found)


def _print(found: "Inspection") -> None:
    from rich.console import Console

    console = Console(soft_wrap=True, highlight=False)
    console.print(_facts(found))
    console.print(_fits(found))
    console.print(found.recommendation)
    if found.command is not None:
        console.print(found.command, style="bold")


def _facts(found: "Inspection") -> object:
    from rich.table import Table

    from model.loading.memory_estimate import gib

    size = found.size
    routed = f"{found.router}, {found.experts_per_token} of {found.experts} experts for each token"
    embed = f"of which {size.embedding_parameters:,} embed"
    stored = ", ".join(f"{gib(stored)} as {kind}" for kind, stored in found.stored.items())
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in (
        ("family", found.family),
        ("layers", ", ".join(f"{count} × {kind}" for kind, count in found.layers.items())),
        ("router", routed if found.router else "none"),
        ("parameters", f"{size.parameters:,}, {embed}"),
        ("work on a token", f"{size.active_parameters:,}, {embed}"),
        ("longest sequence", f"{found.max_model_len:,} tokens"),
        ("KV cache", f"{size.kv_bytes_per_token:,} bytes a token"),
        ("state", f"{size.state_bytes_per_sequence:,} bytes a sequence"),
        ("on disk", stored or "not fetched"),
        ("free memory", gib(found.memory)),
    ):
        table.add_row(name, value)
    return table


def _fits(found: "Inspection") -> object:
    from rich import box
    from rich.table import Table

    from model.loading.memory_estimate import gib

    table = Table(box=box.SIMPLE)
    table.add_column("weights as")
    table.add_column("take", justify="right")
    table.add_column(f"sequences of {found.length:,} tokens that fit", justify="right")
    for fit in found.fits:
        table.add_row(fit.scheme, gib(fit.weight_bytes), f"{fit.sequences:,}")
    return table

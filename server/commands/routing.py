"""`routelm routing`: a report of what the experts of a model do."""

from pathlib import Path
from typing import Annotated

import typer

from server.commands.common.errors import errors_in_one_line

MAX_LENGTH = 512  # tokens of a text


def routing(
    model: Annotated[str, typer.Argument(help="Checkpoint directory, GGUF file, or `bundled`.")],
    data: Annotated[
        list[Path],
        typer.Option(exists=True, dir_okay=False, help='JSON Lines: {"text", "task", "language"}; may be repeated.'),
    ],
    out: Annotated[Path, typer.Option(help="Directory for report.md, its pictures and routing_baseline.json.")],
    tokens: Annotated[int, typer.Option(min=1, max=2_000_000, help="Most tokens to read of each file.")] = 20_000,
) -> None:
    """Report which experts a model uses for which task, language and kind of token, in Markdown with pictures.

    routelm routing bundled --data texts.jsonl --out report

    Copied beside the weights, routing_baseline.json lets GET /v1/routing say how far the load has drifted from it.
    """
    with errors_in_one_line(ImportError):
        from itertools import chain

        from model.checkpoints.hub import find_checkpoint
        from model.evaluation.routing.measures import study
        from model.evaluation.routing.report import write_report
        from model.evaluation.routing.texts import read_texts
        from model.loading.load import load_network
        from model.text.tokenizer import Tokenizer

        directory = find_checkpoint(model, None)
        tokenizer, network = Tokenizer.load(directory), load_network(directory)
        length = min(MAX_LENGTH, network.config.max_positions)
        texts = chain.from_iterable(read_texts(path, tokenizer, tokens, length) for path in data)
        names = write_report(model, study(network, texts), out)
    typer.echo(f"wrote {', '.join(names)} to {out}")

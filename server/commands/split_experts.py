"""`routelm split-experts`: make a mixture of experts of a dense checkpoint."""

import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from server.commands.common.errors import errors_in_one_line

if TYPE_CHECKING:
    from torch import Tensor

    from model.files import Directory
    from model.network import CausalLM

FEWEST_TOKENS = 64  # for clustering, and as many to measure with
DTYPES = ("bfloat16", "float32")


def split_experts(
    source: Annotated[Path, typer.Argument(exists=True, help="Dense checkpoint directory or GGUF file to read.")],
    target: Annotated[Path, typer.Argument(help="Directory to write; must be empty or not exist.")],
    text: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="A text like those that are to come.")],
    experts: Annotated[int, typer.Option(min=2, help="Equal parts of each feed-forward.")] = 8,
    experts_per_token: Annotated[int | None, typer.Option(min=1, help="Routed experts of a token (all).")] = None,
    tokens: Annotated[int, typer.Option(min=2 * FEWEST_TOKENS, help="Most tokens of the text to use.")] = 2048,
    dtype: Annotated[str, typer.Option(help="Type of the written weights: bfloat16 or float32.")] = "bfloat16",
) -> None:
    """Partition the feed-forwards of a dense checkpoint into experts. With all experts on, it equals the dense model.

    routelm split-experts DIR DIR-moe --experts 8 --text book.txt

    The first half of the text decides which neurons belong together; on the second half a table says what fewer experts
    per token cost and bring, and how often the likeliest next token is that of the dense model. Llama, Mistral and
    Qwen2 become qwen2_moe, with one of the parts as the shared expert; Qwen3 becomes qwen3_moe.
    """
    with errors_in_one_line():
        import torch

        from model.checkpoints.hub import local_checkpoint
        from model.loading.split_experts import split_experts as split

        if dtype not in DTYPES:
            raise ValueError(f"--dtype is {dtype!r}: {' or '.join(DTYPES)} is possible")
        directory = local_checkpoint(source)
        ids = _token_ids(directory, text, tokens)
        half = len(ids) // 2
        count = split(directory, target, ids[:half], experts, experts_per_token, getattr(torch, dtype))
        typer.echo("experts per token, perplexity, same next token, tokens read per second")
        for name, perplexity, same, speed in _measured(directory, target, ids[half:], count):
            typer.echo(f"{name:>17}, {perplexity:10.3f}, {same:15.1%}, {speed:22.1f}")


def _token_ids(directory: "Directory", text: Path, most: int) -> list[int]:
    from model.text.tokenizer import Tokenizer

    ids = Tokenizer.load(directory).encode(text.read_text(encoding="utf-8"))[:most]
    if len(ids) < 2 * FEWEST_TOKENS:
        raise ValueError(f"{text} has {len(ids)} tokens: at least {2 * FEWEST_TOKENS} are needed")
    return ids


def _measured(
    dense: "Directory", target: Path, ids: Sequence[int], experts: int
) -> Iterator[tuple[str, float, float, float]]:
    """The dense network, then the new one with a quarter, half, three quarters and all of its experts."""
    from model.loading.load import load_network

    expected_L, perplexity, speed = _read(load_network(dense), ids)
    yield "dense", perplexity, 1.0, speed
    for k in sorted({max(1, experts * quarters // 4) for quarters in range(1, 5)}):
        likeliest_L, perplexity, speed = _read(load_network(target, experts_per_token=k), ids)
        yield f"{k} of {experts}", perplexity, (likeliest_L == expected_L).float().mean().item(), speed


def _read(network: "CausalLM", ids: Sequence[int]) -> tuple["Tensor", float, float]:
    """The likeliest next token everywhere in a text, its perplexity, and how many of its tokens are read per second."""
    import torch

    from model.batch import PaddedBatch

    ids_L = torch.tensor(ids)
    with torch.inference_mode():
        started = time.monotonic()
        logits_LV = network.logits(network(PaddedBatch(ids_L[None]))[0]).float()
        seconds = time.monotonic() - started
    loss = torch.nn.functional.cross_entropy(logits_LV[:-1], ids_L[1:]).item()
    return logits_LV.argmax(1), math.exp(loss), len(ids) / seconds

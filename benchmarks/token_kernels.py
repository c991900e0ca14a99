"""The kernels beside the matrix products, each against its definition and the roofline.

python -m benchmarks.token_kernels --tokens 1 32

One new token for each of N sequences, bfloat16; widths as in granite-3.0-1b-a400m, recurrent layers as in the bundled
model. All of it is warm: these kernels read what the one before wrote. Only keys, values and recurrent states come from
memory when a step is real, so their lines are the ones to compare with a breakdown. `share` is the time in which the
bytes could be read from memory over the time that was taken; above 1 they came from a cache.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks import record
from benchmarks.kernels import Roofline, measure_roofline, seconds_of
from model.evaluation.tables import table
from model.kernels import reference, sampling_reference
from model.kernels.cpu import inference
from model.kernels.types import GatedDelta, Paging, QKNorms, RowSampling, SelectiveScan

WIDTH, INNER, VOCABULARY, EXPERTS, TOP_K = 1024, 512, 49155, 32, 8
HEADS, GROUPS, HEAD, CONTEXT, BLOCK = 16, 8, 64, 512, 16
DELTA_HEADS, DELTA_WIDTH, TAPS = 4, 64, 4
MAMBA_HEADS, MAMBA_STATE = 48, 128


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """A kernel by its name in cpu/inference.py and reference.py, and the bytes that it moves beside small ones."""

    kernel: str
    arguments: tuple[Any, ...]
    bytes_moved: int = 0
    label: str = ""
    definition: Callable[..., Any] | None = None  # where it is not in reference.py

    @property
    def name(self) -> str:
        return self.label or self.kernel

    @property
    def least_bytes(self) -> int:
        """All tensors are read once, unless the case knows better."""
        return self.bytes_moved or sum(a.nbytes for a in self.arguments if isinstance(a, Tensor))


def cases(tokens: int) -> Iterator[Case]:
    """Every kernel that serving calls, for one token of each of that many sequences."""
    x, y, norm = _random(tokens, WIDTH), _random(tokens, WIDTH), torch.randn(WIDTH)
    yield Case("rms_norm", (x, norm, 1e-6))
    yield Case("add_norm", (x, y, 0.22, norm, 1e-6))
    yield Case("gated_rms_norm", (x, y, norm, 1e-6))
    yield Case("layer_norm", (x, norm, norm, 1e-6))
    yield Case("add_scaled", (x, y, 0.22))
    yield Case("scaled", (x, 12.0))
    yield Case("sigmoid_mul", (x, y))
    yield Case("silu_mul", (_random(tokens, 2 * INNER),))
    yield Case("gelu_mul", (_random(tokens, 2 * INNER),))
    yield Case("squared_relu", (_random(tokens, INNER),))
    yield Case("clamped_mul", (_random(tokens, 2 * INNER), 1.702, 7.0))
    chosen = torch.randint(VOCABULARY, (tokens,))
    yield Case("embedding", (_random(VOCABULARY, WIDTH), chosen), 2 * x.nbytes)
    scores_RV = torch.randn(tokens, VOCABULARY)
    for name, temperature, top_p in (("highest score", 0.0, 1.0), ("draw", 1.0, 1.0), ("draw, top_p", 0.7, 0.95)):
        rows = [RowSampling(temperature, 0, top_p, 0.0, seed=row, position=0) for row in range(tokens)]
        yield Case("sample", (scores_RV, rows), label=name, definition=sampling_reference.sample)
    yield Case("top_k_softmax", (torch.randn(tokens, EXPERTS), TOP_K, False))
    routing = torch.randn(1, tokens, EXPERTS), torch.rand(1, tokens, TOP_K), torch.randint(EXPERTS, (1, tokens, TOP_K))
    yield Case("count_routing", (*routing, torch.zeros(tokens, dtype=torch.int64), 1))
    yield Case("moe_combine", (_random(tokens, TOP_K, WIDTH), torch.rand(tokens, TOP_K), x, torch.randn(tokens)))
    yield from _attention(tokens)
    yield from _recurrences(tokens)


def _attention(tokens: int) -> Iterator[Case]:
    positions, starts = torch.full((tokens,), CONTEXT - 1), torch.arange(tokens + 1, dtype=torch.int32)
    blocks = CONTEXT // BLOCK
    table_SB = torch.randperm(tokens * blocks).to(torch.int32).view(tokens, blocks)
    paging = Paging(positions, starts, table_SB)
    keys, values = (_random(tokens * blocks, BLOCK, GROUPS, HEAD) for _ in range(2))
    tables = torch.rand(tokens, HEAD), torch.rand(tokens, HEAD)
    yield Case("rotary_tables", (positions, torch.rand(HEAD // 2), 1.0))
    yield Case("rotate", (_random(tokens, HEADS, HEAD), *tables))
    new = _random(tokens, GROUPS, HEAD), _random(tokens, GROUPS, HEAD)
    norms = QKNorms(torch.rand(HEAD), torch.rand(HEAD), 1e-6)
    yield Case("qk_norm_rotate", (_random(tokens, HEADS, HEAD), new[0], *tables, norms))
    yield Case("store_kv", (*new, keys, values, paging), 4 * new[0].nbytes)
    attention = (_random(tokens, HEADS, HEAD), keys, values, paging, 0.125, None, None)
    yield Case("paged_attention", attention, 2 * keys.nbytes)


def _recurrences(tokens: int) -> Iterator[Case]:
    rows, starts = torch.arange(tokens, dtype=torch.int32), torch.arange(tokens + 1, dtype=torch.int32)
    channels = 3 * DELTA_HEADS * DELTA_WIDTH
    conv, history = torch.randn(channels, TAPS), torch.randn(tokens, TAPS - 1, channels)
    yield Case("short_conv", (_random(tokens, channels), conv, None, history, rows, starts, True), 2 * history.nbytes)
    small = (conv, torch.randn(DELTA_HEADS), torch.randn(DELTA_HEADS), torch.randn(DELTA_WIDTH))
    weights = GatedDelta(*small, eps=1e-6, key_width=DELTA_WIDTH)
    x, state = _random(tokens, channels + DELTA_HEADS * (DELTA_WIDTH + 2)), torch.randn(tokens, DELTA_HEADS, 64, 64)
    moved = 2 * (state.nbytes + history.nbytes)
    yield Case("gated_delta", (x, weights, history, state, rows, starts), moved)
    dt, A = torch.rand(tokens, MAMBA_HEADS), -torch.rand(MAMBA_HEADS)
    yield Case("time_steps", (dt, torch.randn(MAMBA_HEADS), 0.0, 10.0))
    B, C = (_random(tokens, 1, MAMBA_STATE) for _ in range(2))
    scan = torch.zeros(tokens, MAMBA_HEADS, HEAD, MAMBA_STATE)
    inputs = (_random(tokens, MAMBA_HEADS, HEAD), dt, A, B, C)
    yield Case("mamba_scan", (*inputs, scan, rows, starts), 2 * scan.nbytes)

    heads = (DELTA_HEADS, DELTA_WIDTH)
    inputs = (*(_random(tokens, *heads) for _ in range(4)), _random(tokens, DELTA_HEADS))
    small = (torch.randn(DELTA_HEADS), torch.randn(heads))
    yield Case("kimi_delta", (*inputs, *small, state, rows, starts), 2 * state.nbytes)
    inputs = tuple(_random(tokens, size) for size in (WIDTH, WIDTH, 16, 16, WIDTH))
    weights, state = (
        SelectiveScan(torch.randn(WIDTH), torch.rand(WIDTH, 16), torch.randn(WIDTH)),
        torch.randn(tokens, WIDTH, 16),
    )
    yield Case("selective_scan", (*inputs, weights, state, rows, starts), 2 * state.nbytes)


def _random(*shape: int) -> Tensor:
    return torch.randn(shape).bfloat16()


@torch.inference_mode()
def measure(case: Case, repeats: int, roofline: Roofline) -> dict[str, float]:
    """Medians of interleaved rounds, in microseconds."""
    calls = {
        "compiled": partial(getattr(inference, case.kernel), *case.arguments),
        "definition": partial(case.definition or getattr(reference, case.kernel), *case.arguments),
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            times[name].append(seconds_of(call, 0.01))
    found = {name: median(of) for name, of in times.items()}
    share = roofline.seconds(case.least_bytes, 0) / found["compiled"]
    return {name: round(seconds * 1e6, 1) for name, seconds in found.items()} | {"share": round(share, 2)}


def rows_of(figures: dict[str, dict[str, dict[str, float]]]) -> str:
    """A line per kernel, as Markdown; columns for each number of tokens."""
    counts = list(figures)
    heads = ["microseconds", *(f"{what}, {count}" for count in counts for what in ("compiled", "definition", "share"))]
    return table(
        heads,
        [[name, *(f"{value:g}" for count in counts for value in figures[count][name].values())]
         for name in figures[counts[0]]],
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    roofline = measure_roofline()
    figures = {str(n): {case.name: measure(case, given.repeats, roofline) for case in cases(n)} for n in given.tokens}
    print(
        rows_of(figures), record.write("token-kernels", {"tokens": figures, "roofline": asdict(roofline)}), sep="\n\n"
    )


if __name__ == "__main__":
    main()

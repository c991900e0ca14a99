"""Where the time of a decode step goes, and what the roofline leaves for the products in it.

    python -m benchmarks.breakdown --model DIRECTORY --streams 1 8 32 --threads 2 --name breakdown-granite

The engine decodes N streams in one process, without HTTP. A step's parts: matrix products, the other compiled kernels,
and the engine around them: scheduling, inputs, sampling. Beside the products stands the time in which their weights can
be read, or their operations done, whichever is longer. Medians over steps, which must be replayed graphs: a network in
which PyTorch computes has none.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks import record
from benchmarks.kernels import Roofline, measure_roofline
from model.evaluation.tables import table
from model.kernels.kernel_graph import KernelGraph
from model.kernels.matmul import packed
from model.kernels.matmul.packed import PackedWeights
from model.kernels.types import GatedMLPWeights
from model.loading.load import load_network
from model.quantization import SCHEMES
from server.engine.config import EngineConfig
from server.engine.engine import Engine
from server.engine.types import GenerateRequest, SamplingParams

PROMPT, WARM, STEPS = 128, 4, 32
LONGEST = 128  # tokens of an answer: the first streams write while the last prompts are read
PARTS = ("products", "other kernels", "engine around it")
PRODUCTS = ("matmul", "moe")  # how the names of these kernels begin
Clock = Callable[[], float]


@dataclass(slots=True)
class Work:
    """What the products of a step read and compute."""

    bytes_read: float = 0.0
    operations: float = 0.0

    def count_linear(self, x: Tensor, weights: PackedWeights) -> None:
        self.bytes_read += weights.nbytes
        self.operations += 2 * len(x) * weights.inputs * weights.outputs

    def count_moe(
        self,
        x: Tensor,
        experts_TK: Tensor | None,
        routed: GatedMLPWeights[PackedWeights] | None,
        shared: GatedMLPWeights[PackedWeights] | None,
    ) -> None:
        """Each touched expert's weights once; the shared one's, too."""
        if routed is not None and experts_TK is not None:
            share = len(experts_TK.unique()) / routed.gate_up.experts
            self._count_mlp(routed, share, experts_TK.numel())
        if shared is not None:
            self._count_mlp(shared, 1.0, len(x))

    def _count_mlp(self, weights: GatedMLPWeights[PackedWeights], share: float, rows: int) -> None:
        for matrix in (weights.gate_up, weights.down):
            self.bytes_read += matrix.nbytes * share
            self.operations += 2 * rows * matrix.inputs * matrix.outputs


@contextmanager
def counted() -> Iterator[Work]:
    """Counts the matrix products that are computed in the block, except for those of replayed graphs."""
    work, linear, moe = Work(), packed._linear, packed._moe

    def counting_linear(x: Tensor, counts_E: Tensor | None, weights: PackedWeights, *rest: Any) -> Tensor:
        work.count_linear(x, weights)
        return linear(x, counts_E, weights, *rest)

    def counting_moe(x: Tensor, choices: tuple[Tensor, Tensor] | None, weights: Any, *rest: Any) -> Tensor:
        work.count_moe(x, choices and choices[0], *weights)
        return moe(x, choices, weights, *rest)

    with patch.object(packed, "_linear", counting_linear), patch.object(packed, "_moe", counting_moe):
        yield work


@contextmanager
def timed(graph: KernelGraph, clock: Clock) -> Iterator[dict[str, float]]:
    """Seconds in matrix products and in other kernels, added up over the replays in the block."""
    seconds = dict.fromkeys(PARTS[:2], 0.0)

    def replay() -> None:
        for kernel, arguments in graph.calls:
            start = clock()
            kernel(*arguments)
            part = PARTS[0] if kernel.__name__.startswith(PRODUCTS) else PARTS[1]
            seconds[part] += clock() - start

    with patch.object(graph, "replay", replay):
        yield seconds


def decode_steps(engine: Engine, streams: int, clock: Clock = time.perf_counter) -> tuple[list[dict[str, float]], Work]:
    """The parts of steps in which all streams decode, in seconds of the clock, and the work of one of them."""
    vocabulary = engine.runner.network.config.vocab_size
    for number in range(streams):
        ids = tuple(torch.randint(32, vocabulary, (PROMPT,)).tolist())
        sampling = SamplingParams(max_tokens=LONGEST, temperature=0.0, ignore_eos=True)
        engine.submit(GenerateRequest(f"{streams}-{time.perf_counter_ns()}-{number}", ids, sampling))
    writing: set[str] = set()
    while len(writing) < streams:
        writing |= {output.request_id for output in engine.step()}
    with counted() as work:
        engine.step()
    engine.step()  # the second one of as many sequences is captured
    graph = engine.runner.decode_graphs.graph(streams)
    if graph is None:
        raise RuntimeError("the steps of this network cannot be captured: PyTorch computes in them")
    parts = [_parts(engine, graph, clock) for _ in range(WARM + STEPS)]
    while engine.has_unfinished:
        engine.step()
    return parts[WARM:], work


def _parts(engine: Engine, graph: KernelGraph, clock: Clock) -> dict[str, float]:
    with timed(graph, clock) as seconds:
        start = clock()
        engine.step()
        step = clock() - start
    return seconds | {PARTS[2]: step - sum(seconds.values())}


def figures_of(steps: list[dict[str, float]], work: Work, roofline: Roofline) -> dict[str, float]:
    """Medians, in milliseconds."""
    found = {"step": median(sum(parts.values()) for parts in steps)}
    found |= {part: median(parts[part] for parts in steps) for part in PARTS}
    found["roofline of the products"] = roofline.seconds(work.bytes_read, work.operations)
    return {name: round(seconds * 1e3, 3) for name, seconds in found.items()}


def rows_of(figures: dict[str, dict[str, float]]) -> str:
    """A line per number of streams, as Markdown."""
    first = next(iter(figures.values()))
    return table(
        ["streams", *first], [[streams, *(f"{v:.2f}" for v in of.values())] for streams, of in figures.items()]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("model/bundled"))
    parser.add_argument("--quantize", choices=sorted(SCHEMES))
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--name", default="breakdown", help="of the result file")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    scheme = SCHEMES[given.quantize] if given.quantize else None
    network, roofline = load_network(given.model, scheme=scheme), measure_roofline()
    engine = Engine(network, EngineConfig(max_model_len=512, max_num_seqs=max(given.streams), cache_bytes=300 << 20))
    found = {str(streams): decode_steps(engine, streams) for streams in given.streams}
    roofline = roofline.or_better(measure_roofline())
    steps = {streams: figures_of(*of, roofline) for streams, of in found.items()}
    machine = {"GB read a second": roofline.bandwidth / 1e9, "GFLOP a second": roofline.operations / 1e9}
    figures = {"milliseconds": steps, "machine": {name: round(value, 1) for name, value in machine.items()}}
    print(rows_of(steps), record.write(given.name, figures), sep="\n\n")


if __name__ == "__main__":
    main()

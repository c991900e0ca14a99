"""Where the time of a decode step goes, and what the roofline leaves for the products in it.

    python -m benchmarks.breakdown --model DIRECTORY --streams 1 8 32 --threads 2 --name breakdown-granite

The engine decodes N streams in one process, without HTTP. A step's parts: matrix products, the other compiled kernels,
and the engine around them: scheduling, inputs, sampling. Beside the products stands the time in which their weights can
be read, or their operations done, whichever is longer. Medians over steps, which must be recorded ones: a network in
which PyTorch computes has none.
"""

import argparse
import time
from collections.abc import Iterator
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
from model.kernels import product
from model.kernels.product import FeedForwardWeights, Panels
from model.kernels.recording import Recording
from model.loading.load import load_network
from model.quantization import SCHEMES
from server.engine.config import EngineConfig
from server.engine.engine import Engine
from server.engine.types import GenerateRequest, SamplingParams

PROMPT, WARM, STEPS = 128, 4, 32
LONGEST = 128  # tokens of an answer: the first streams write while the last prompts are read
PARTS = ("products", "other kernels", "engine around it")
PRODUCTS = ("product", "sums", "experts")  # how the names of these kernels begin


@dataclass(slots=True)
class Work:
    """What the products of a step read and compute."""

    bytes_read: float = 0.0
    operations: float = 0.0

    def count_product(self, x: Tensor, weights: Panels) -> None:
        self.bytes_read += weights.nbytes
        self.operations += 2 * len(x) * weights.inputs * weights.outputs

    def count_experts(
        self,
        x: Tensor,
        experts_TK: Tensor | None,
        routed: FeedForwardWeights | None,
        shared: FeedForwardWeights | None,
    ) -> None:
        """Each touched expert's weights once; the shared one's, too."""
        if routed is not None and experts_TK is not None:
            share = len(experts_TK.unique()) / routed.gate_up.experts
            self._count_feed_forward(routed, share, experts_TK.numel())
        if shared is not None:
            self._count_feed_forward(shared, 1.0, len(x))

    def _count_feed_forward(self, weights: FeedForwardWeights, share: float, rows: int) -> None:
        for panels in (weights.gate_up, weights.down):
            self.bytes_read += panels.nbytes * share
            self.operations += 2 * rows * panels.inputs * panels.outputs


@contextmanager
def counted() -> Iterator[Work]:
    """Counts the products that are called by name in the block; one counts them before it calls them."""
    work, product_before, experts_before = Work(), product._product, product._experts

    def counting_product(x: Tensor, counts_E: Tensor | None, weights: Panels, **named: Any) -> Tensor:
        work.count_product(x, weights)
        return product_before(x, counts_E, weights, **named)

    def counting_experts(x: Tensor, tensors: tuple[Tensor | None, ...], feed_forwards: Any, *rest: Any) -> Tensor:
        work.count_experts(x, tensors[0], *feed_forwards)
        return experts_before(x, tensors, feed_forwards, *rest)

    with patch.object(product, "_product", counting_product), patch.object(product, "_experts", counting_experts):
        yield work


@contextmanager
def timed(recording: Recording) -> Iterator[dict[str, float]]:
    """Seconds in products and in other kernels, added up over the repetitions in the block."""
    seconds = dict.fromkeys(PARTS[:2], 0.0)

    def repeat() -> None:
        for kernel, arguments in recording.calls:
            start = time.perf_counter()
            kernel(*arguments)
            part = PARTS[0] if kernel.__name__.startswith(PRODUCTS) else PARTS[1]
            seconds[part] += time.perf_counter() - start

    with patch.object(recording, "repeat", repeat):
        yield seconds


def decode_steps(engine: Engine, streams: int) -> tuple[list[dict[str, float]], Work]:
    """The parts of steps in which all streams decode, in seconds, and the work of one of them."""
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
    engine.step()  # the second one of as many sequences is recorded
    recording = engine.runner.decode_graphs.graph(streams)
    if recording is None:
        raise RuntimeError("the steps of this network cannot be recorded: PyTorch computes in them")
    parts = [_parts(engine, recording) for _ in range(WARM + STEPS)]
    while engine.has_unfinished:
        engine.step()
    return parts[WARM:], work


def _parts(engine: Engine, recording: Recording) -> dict[str, float]:
    with timed(recording) as seconds:
        start = time.perf_counter()
        engine.step()
        step = time.perf_counter() - start
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

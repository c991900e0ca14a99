"""Where the time of a decode step goes, and what the roofline leaves for the products in it.

    python -m benchmarks.breakdown --model DIRECTORY --streams 1 8 32 --threads 2 --name breakdown-granite

The engine decodes N streams in one process, without HTTP. A step's parts: matrix products, other compiled kernels, what
else the network does (PyTorch and Python), and the engine around it: scheduling, inputs, sampling. Beside the products
stands the time in which their weights can be read, or their operations done, whichever is longer. Medians over steps.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks import record
from benchmarks.kernels import Roofline, measure_roofline
from model.evaluation.tables import table
from model.kernels import cpu, product
from model.kernels.product import Feed, Panels
from model.loading import load_network
from model.quantization import SCHEMES
from server.engine.config import EngineConfig
from server.engine.engine import Engine
from server.engine.types import EngineRequest, SamplingParams

PROMPT, WARM, STEPS = 128, 4, 32
LONGEST = 128  # tokens of an answer: the first streams write while the last prompts are read
COUNTING = "counting"  # what products read and compute: time that the engine does not spend
PARTS = ("products", "other kernels", "rest of the network", "engine around it")


@dataclass(slots=True)
class Step:
    """Seconds of one step by part, and what its products read and compute."""

    seconds: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(("step", "network", COUNTING, *PARTS[:2]), 0.0)
    )
    bytes_read: float = 0.0
    operations: float = 0.0

    @contextmanager
    def timing(self, part: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[part] += time.perf_counter() - start

    def parts(self) -> dict[str, float]:
        """Parts that do not overlap."""
        found, kernels = self.seconds, self.seconds["products"] + self.seconds["other kernels"]
        rest, around = found["network"] - kernels - found[COUNTING], found["step"] - found["network"]
        return dict(zip(PARTS, (found["products"], found["other kernels"], rest, around), strict=True))

    def count_product(self, x: Tensor, weights: Panels) -> None:
        self.bytes_read += weights.nbytes
        self.operations += 2 * len(x) * weights.inputs * weights.outputs

    def count_experts(self, x: Tensor, experts_TK: Tensor | None, feeds: tuple[Feed | None, Feed | None]) -> None:
        """Each touched expert's weights once; the shared one's, too."""
        routed, shared = feeds
        if routed is not None and experts_TK is not None:
            share = len(experts_TK.unique()) / routed.gate_up.experts
            self._count_feed(routed, share, experts_TK.numel())
        if shared is not None:
            self._count_feed(shared, 1.0, len(x))

    def _count_feed(self, feed: Feed, share: float, rows: int) -> None:
        for panels in (feed.gate_up, feed.down):
            self.bytes_read += panels.nbytes * share
            self.operations += 2 * rows * panels.inputs * panels.outputs


class Watch:
    """Replaces functions by ones that note their time in the current step."""

    def __init__(self) -> None:
        self.step = Step()
        self._stack = ExitStack()

    def over(self, owner: Any, name: str, part: str, count: Callable[..., None] | None = None) -> None:
        original = getattr(owner, name)

        def timed(*arguments: Any, **named: Any) -> Any:
            if count is not None:
                with self.step.timing(COUNTING):
                    count(self.step, *arguments)
            with self.step.timing(part):
                return original(*arguments, **named)

        self._stack.enter_context(patch.object(owner, name, timed))

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def decode_steps(engine: Engine, streams: int) -> list[Step]:
    """Steps in which all streams decode, the first few left out."""
    network = engine.runner._network
    for number in range(streams):
        ids = tuple(torch.randint(32, network.config.vocab_size, (PROMPT,)).tolist())
        sampling = SamplingParams(max_tokens=LONGEST, temperature=0.0, ignore_eos=True)
        engine.submit(EngineRequest(f"{streams}-{time.perf_counter_ns()}-{number}", ids, sampling))
    writing: set[str] = set()
    while len(writing) < streams:
        writing |= {output.request_id for output in engine.step()}
    steps = []
    with Watch() as watch:
        watch.over(network, "forward", "network")
        watch.over(network, "logits", "network")
        watch.over(cpu, "call", "other kernels")
        watch.over(product, "_product", "products", lambda step, x, _, weights, **__: step.count_product(x, weights))
        watch.over(product, "_experts", "products", lambda step, x, t, feeds, *_: step.count_experts(x, t[0], feeds))
        for _ in range(WARM + STEPS):
            watch.step = Step()
            with watch.step.timing("step"):
                engine.step()
            steps.append(watch.step)
    while engine.has_unfinished:
        engine.step()
    return steps[WARM:]


def figures_of(steps: list[Step], roofline: Roofline) -> dict[str, float]:
    """Medians, in milliseconds."""
    found = {"step": median(step.seconds["step"] - step.seconds[COUNTING] for step in steps)}
    found |= {part: median(step.parts()[part] for step in steps) for part in PARTS}
    found["roofline of the products"] = median(roofline.seconds(s.bytes_read, s.operations) for s in steps)
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
    steps = {str(streams): figures_of(decode_steps(engine, streams), roofline) for streams in given.streams}
    machine = {"GB read a second": roofline.bandwidth / 1e9, "GFLOP a second": roofline.operations / 1e9}
    figures = {"milliseconds": steps, "machine": {name: round(value, 1) for name, value in machine.items()}}
    print(rows_of(steps), record.write(given.name, figures), sep="\n\n")


if __name__ == "__main__":
    main()

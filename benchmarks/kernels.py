"""The matrix products against oneDNN's and against the roofline: bytes or operations, whichever binds.

python -m benchmarks.kernels --models granite olmoe bundled

Weights are cold: calls go round through copies that are together larger than the last-level cache. Every figure is the
median of several interleaved rounds and includes the call from Python. `share` is the roofline's time over the measured.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import cycle
from statistics import median

import torch
from torch import Tensor

from benchmarks import record
from model.kernels import product, product_reference, silu_mul
from model.kernels.product import Feed, Panels
from model.layers.linear import pack, packed_product

ROWS = (1, 2, 4, 8, 16, 32, 128, 512)
COLD_BYTES = 96 << 20
BYTES = {"bf16": 2.0, "int8": 1.0, "int4": 4.5 / 8, "oneDNN bf16": 2.0}
Call = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Matrix:
    """One linear layer."""

    outputs: int
    inputs: int


@dataclass(frozen=True, slots=True)
class Experts:
    """The routed feed-forward of one layer."""

    num_experts: int
    top_k: int
    hidden: int
    width: int


MODELS: dict[str, tuple[Matrix | Experts, ...]] = {
    "granite-3.0-1b-a400m": (Matrix(2048, 1024), Matrix(1024, 1024), Experts(32, 8, 1024, 512), Matrix(49155, 1024)),
    "OLMoE-1B-7B": (Matrix(6144, 2048), Matrix(2048, 2048), Experts(64, 8, 2048, 1024)),
    "bundled": (Matrix(1024, 256), Matrix(256, 256), Experts(16, 2, 256, 128), Matrix(7680, 256)),
}


@dataclass(frozen=True, slots=True)
class Roofline:
    """What this machine can do: bytes read per second, and bfloat16 operations per second."""

    bandwidth: float
    operations: float

    def seconds(self, bytes_read: float, operations: float) -> float:
        return max(bytes_read / self.bandwidth, operations / self.operations)


def seconds_of(call: Call, budget: float) -> float:
    """Mean time of a call over about `budget` seconds, after one that is not counted."""
    start = time.perf_counter()
    call()
    count = max(1, int(budget / (time.perf_counter() - start)))
    start = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - start) / count


def measure_roofline() -> Roofline:
    """The fastest of several readings of 512 MB, and of several large oneDNN products."""
    words, square = torch.ones(128 << 20), torch.randn(2048, 2048).bfloat16()
    packed = pack(square)
    read = min(seconds_of(words.sum, 0.05) for _ in range(5))
    multiply = min(seconds_of(lambda: packed_product(square, packed), 0.1) for _ in range(5))
    return Roofline(words.nbytes / read, 2 * 2048**3 / multiply)


def random_panels(kind: str, experts: int, outputs: int, inputs: int) -> Panels:
    """Packed weights of a kind: any numbers will do."""
    if kind == "bf16":
        return Panels(torch.randn(experts, outputs, inputs, dtype=torch.bfloat16))
    if kind == "int8":
        codes = torch.randint(-127, 128, (experts, outputs, inputs), dtype=torch.int8)
        return Panels(codes, torch.full((experts, outputs), 0.01))
    codes = torch.randint(0, 256, (experts, outputs, inputs // 2), dtype=torch.uint8)
    return Panels(codes, torch.full((experts, outputs, inputs // product.GROUP), 0.2, dtype=torch.bfloat16))


class MatrixCase:
    """A linear layer in every form, each with enough copies to be cold."""

    def __init__(self, shape: Matrix) -> None:
        self.shape = shape
        self.operations_per_row = 2 * shape.outputs * shape.inputs
        self.calls: dict[str, Callable[[Tensor], object]] = {}
        for kind, width in BYTES.items():
            copies = range(1 + int(COLD_BYTES / (shape.outputs * shape.inputs * width)))
            if kind in ("bf16", "int8", "int4"):
                panels = cycle([random_panels(kind, 1, shape.outputs, shape.inputs) for _ in copies])
                self.calls[kind] = lambda x, panels=panels: product.product(x, next(panels))
            else:
                packs = cycle([pack(torch.randn(shape.outputs, shape.inputs).bfloat16()) for _ in copies])
                self.calls[kind] = lambda x, packs=packs: packed_product(x, next(packs))

    def weights_read(self, rows: int) -> float:
        """How many weights a call of that many rows has to read."""
        return self.shape.outputs * self.shape.inputs

    def calls_for(self, rows: int) -> dict[str, Call]:
        x_TI = torch.randn(rows, self.shape.inputs).bfloat16()
        return {name: lambda call=call: call(x_TI) for name, call in self.calls.items()}  # type: ignore[misc]


class ExpertsCase:
    """The experts of a layer: one call of ours, and gather, calls per expert, activation and sum with oneDNN."""

    def __init__(self, shape: Experts) -> None:
        self.shape = shape
        expert = 3 * shape.hidden * shape.width
        self.operations_per_row = 2 * shape.top_k * expert
        self.calls: dict[str, Callable[..., object]] = {}
        for kind, width in BYTES.items():
            copies = range(1 + int(COLD_BYTES / (shape.top_k * expert * width) / 2))
            if kind == "oneDNN bf16":
                layers = cycle([_OneDNNExperts(shape) for _ in copies])
                self.calls[kind] = lambda *inputs, layers=layers: next(layers)(*inputs)
            else:
                feeds = cycle([self._feed(kind) for _ in copies])
                self.calls[kind] = lambda *inputs, feeds=feeds: product.experts(*inputs, next(feeds))

    def _feed(self, kind: str) -> Feed:
        s = self.shape
        return Feed(
            random_panels(kind, s.num_experts, 2 * s.width, s.hidden),
            random_panels(kind, s.num_experts, s.hidden, s.width),
        )

    def weights_read(self, rows: int) -> float:
        """The mean over the choices of this seed."""
        touched = [len(experts_TK.unique()) for experts_TK in self._choices(rows)]
        return sum(touched) / len(touched) * 3 * self.shape.hidden * self.shape.width

    def _choices(self, rows: int) -> list[Tensor]:
        generator = torch.Generator().manual_seed(rows)
        scores = torch.rand(16, rows, self.shape.num_experts, generator=generator)
        return list(scores.topk(self.shape.top_k).indices)

    def calls_for(self, rows: int) -> dict[str, Call]:
        x_TD = torch.randn(rows, self.shape.hidden).bfloat16()
        weights_TK = torch.full((rows, self.shape.top_k), 1 / self.shape.top_k)
        choices = {name: cycle(self._choices(rows)) for name in self.calls}
        return {
            name: lambda name=name, call=call: call(x_TD, next(choices[name]), weights_TK)  # type: ignore[misc]
            for name, call in self.calls.items()
        }


class _OneDNNExperts:
    def __init__(self, shape: Experts) -> None:
        def packs(outputs: int, inputs: int) -> list[Tensor]:
            return [pack(torch.randn(outputs, inputs).bfloat16()) for _ in range(shape.num_experts)]

        self.gate_up, self.down = packs(2 * shape.width, shape.hidden), packs(shape.hidden, shape.width)

    def __call__(self, x_TD: Tensor, experts_TK: Tensor, weights_TK: Tensor) -> Tensor:
        experts_S, order_S = experts_TK.flatten().sort(stable=True)
        counts = torch.bincount(experts_S, minlength=len(self.down)).tolist()
        outs = []
        for expert, x in enumerate(x_TD.index_select(0, order_S // experts_TK.shape[1]).split(counts)):
            if len(x):
                outs.append(packed_product(silu_mul(packed_product(x, self.gate_up[expert])), self.down[expert]))
        y_SD = torch.cat(outs)
        y_TKD = y_SD.new_empty(y_SD.shape).index_copy(0, order_S, y_SD).unflatten(0, experts_TK.shape)
        return product_reference.weighted_sum(y_TKD, weights_TK)


def figures_of(case: MatrixCase | ExpertsCase, rows: int, roofline: Roofline, repeats: int) -> dict[str, object]:
    """Milliseconds and share of the roofline of every contender, measured in turn."""
    calls = case.calls_for(rows)
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            times[name].append(seconds_of(call, 0.02))
    figures: dict[str, object] = {}
    for name, measured in times.items():
        best = roofline.seconds(case.weights_read(rows) * BYTES[name], case.operations_per_row * rows)
        figures[name] = {"ms": round(median(measured) * 1e3, 4), "share": round(best / median(measured), 3)}
    return figures


def cases(models: list[str]) -> Iterator[tuple[str, str, MatrixCase | ExpertsCase]]:
    for model in models:
        for shape in MODELS[model]:
            name = ", ".join(f"{key} {value}" for key, value in asdict(shape).items())
            yield model, name, MatrixCase(shape) if isinstance(shape, Matrix) else ExpertsCase(shape)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--rows", type=int, nargs="+", default=list(ROWS))
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    roofline = measure_roofline()
    print(f"{roofline.bandwidth / 1e9:.0f} GB/s, {roofline.operations / 1e9:.0f} GFLOP/s")
    results: dict[str, object] = {"roofline": asdict(roofline), "threads": torch.get_num_threads()}
    for model, name, case in cases(arguments.models):
        for rows in arguments.rows:
            results[f"{model}: {name}: {rows} rows"] = figures = figures_of(case, rows, roofline, arguments.repeats)
            print(f"{model}: {name}: {rows} rows: {figures}")
    print(record.write("kernels", results))


if __name__ == "__main__":
    main()

"""The matrix products against their definition, oneDNN's, and the roofline: bytes or operations, whichever binds.

python -m benchmarks.kernels --models granite olmoe bundled

Weights are cold: calls go round through copies that are together larger than the last-level cache. Every figure is the
median of several interleaved rounds and includes the call from Python. `share` is the roofline's time over it. The
roofline's operations are those of bfloat16: int8 and int4, which multiply integers, may have a share above 1.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cache, partial
from itertools import cycle
from statistics import median

import torch
from torch import Tensor

from benchmarks import record
from model.kernels import moe_combine, silu_mul
from model.kernels.matmul import packed, reference
from model.kernels.matmul.codes import GROUP_SIZE, Codes
from model.kernels.matmul.packed import PackedWeights
from model.kernels.matmul.reference import PlainWeights
from model.kernels.types import GatedMLPWeights

ROWS = (1, 2, 4, 8, 16, 32, 128, 512)
COLD_BYTES = 96 << 20
ONEDNN = "oneDNN bf16"
DEFINITION = "definition"  # plain PyTorch in float32, for few rows
# of a weight
BYTES = {"bf16": 2.0, "int8": 1.0, "int4": 4.5 / 8, "q8_0": 8.5 / 8, "q4_1": 5 / 8, ONEDNN: 2.0, DEFINITION: 4.0}
FEW_ROWS = 32
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

    @property
    def parameters(self) -> int:
        """Of one expert."""
        return 3 * self.hidden * self.width


MODELS: dict[str, tuple[Matrix | Experts, ...]] = {
    "granite-3.0-1b-a400m": (Matrix(2048, 1024), Matrix(1024, 1024), Experts(32, 8, 1024, 512), Matrix(49155, 1024)),
    "OLMoE-1B-7B": (Matrix(6144, 2048), Matrix(2048, 2048), Experts(64, 8, 2048, 1024)),
    "bundled": (Matrix(1024, 256), Matrix(256, 256), Experts(16, 2, 256, 128), Matrix(7680, 256)),
}


@dataclass(frozen=True, slots=True)
class Roofline:
    """What was reached on this machine: bytes read per second, and bfloat16 operations per second."""

    bandwidth: float
    operations: float

    def seconds(self, bytes_read: float, operations: float) -> float:
        return max(bytes_read / self.bandwidth, operations / self.operations)

    def or_better(self, other: "Roofline") -> "Roofline":
        """The best of two measurements: neighbours on a machine only ever slow it down."""
        return Roofline(max(self.bandwidth, other.bandwidth), max(self.operations, other.operations))


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
    """The fastest of several readings of 256 MB, and of several large products; torch's and ours."""
    words, row = torch.ones(64 << 20), torch.randn(1, 4096).bfloat16()
    weights = PackedWeights(Codes(torch.ones(1, words.nbytes // 8192, 4096, dtype=torch.bfloat16)))
    square = torch.randn(2048, 2048).bfloat16()
    products = [partial(_matmul, PackedWeights(Codes(square[None])), square)]
    if ONEDNN in contenders():
        products.append(partial(onednn_matmul, onednn_pack(square), square))
    read = min(seconds_of(call, 0.05) for call in (words.sum, partial(_matmul, weights, row)) for _ in range(5))
    multiply = min(seconds_of(call, 0.1) for call in products for _ in range(5))
    return Roofline(words.nbytes / read, 2 * 2048**3 / multiply)


def random_weights(kind: str, experts: int, outputs: int, inputs: int) -> PackedWeights:
    """Packed weights of a kind: any numbers will do."""
    if kind == "bf16":
        return PackedWeights(Codes(torch.randn(experts, outputs, inputs, dtype=torch.bfloat16)))
    by_row, by_group = (experts, outputs), (experts, outputs, inputs // GROUP_SIZE)
    if kind in ("int8", "q8_0"):
        values = torch.randint(-127, 128, (experts, outputs, inputs), dtype=torch.int8)
        scales = torch.full(by_row, 0.01) if kind == "int8" else torch.full(by_group, 0.01).half()
        return PackedWeights(Codes(values, scales))
    values, scales = torch.randint(0, 256, (experts, outputs, inputs // 2)).byte(), torch.full(by_group, 0.2).half()
    return PackedWeights(Codes(values, scales, None if kind == "int4" else -8 * scales))


class MatrixCase:
    """A linear layer in every form, each with enough copies to be cold."""

    def __init__(self, shape: Matrix) -> None:
        self.shape = shape
        self.operations_per_row = 2 * shape.outputs * shape.inputs
        self.forms = {kind: Cold([self._make(kind) for _ in range(self._copies(kind))]) for kind in contenders()}

    def _copies(self, kind: str) -> int:
        if kind == DEFINITION:
            return 1
        return 1 + int(COLD_BYTES / (self.shape.outputs * self.shape.inputs * BYTES[kind]))

    def _make(self, kind: str) -> Callable[[Tensor], Tensor]:
        if kind == DEFINITION:
            return partial(_definition, PlainWeights(Codes(torch.randn(1, self.shape.outputs, self.shape.inputs))))
        if kind == ONEDNN:
            return partial(onednn_matmul, onednn_pack(torch.randn(self.shape.outputs, self.shape.inputs).bfloat16()))
        return partial(_matmul, random_weights(kind, 1, self.shape.outputs, self.shape.inputs))

    def weights_read(self, rows: int) -> float:
        """How many weights a call of that many rows has to read."""
        return self.shape.outputs * self.shape.inputs

    def calls(self, rows: int) -> dict[str, Call]:
        """A call of every form."""
        x_TI = torch.randn(rows, self.shape.inputs).bfloat16()
        return {kind: partial(cold, x_TI) for kind, cold in self.forms.items()}


class Cold:
    """Calls its copies in turn."""

    def __init__(self, copies: list[Callable[..., Tensor]]) -> None:
        self._copies = cycle(copies)

    def __call__(self, *inputs: Tensor) -> Tensor:
        return next(self._copies)(*inputs)


@cache
def contenders() -> tuple[str, ...]:
    """The forms of a matrix that this processor multiplies: oneDNN takes no bfloat16 on those without AVX-512."""
    try:
        onednn_pack(torch.zeros(32, 32, dtype=torch.bfloat16))
    except RuntimeError:
        return tuple(kind for kind in BYTES if kind != ONEDNN)
    return tuple(BYTES)


def onednn_pack(weight_OI: Tensor) -> Tensor:
    """The weight in the layout that `onednn_matmul` wants."""
    return torch.ops.mkldnn._reorder_linear_weight(weight_OI.contiguous())


def onednn_matmul(packed: Tensor, x_TI: Tensor) -> Tensor:
    """x_TI times a packed weight: [T, O]."""
    return torch.ops.mkldnn._linear_pointwise(x_TI, packed, None, "none", [], "")


def _matmul(weights: PackedWeights, x_TI: Tensor) -> Tensor:
    return packed.linear(x_TI, weights)


def _definition(weights: PlainWeights, x_TI: Tensor) -> Tensor:
    return reference.linear(x_TI, weights)


class ExpertsCase:
    """The experts of a layer: one call of ours, and gather, calls per expert, activation and sum with oneDNN."""

    def __init__(self, shape: Experts) -> None:
        self.shape = shape
        self.operations_per_row = 2 * shape.top_k * shape.parameters
        self.forms = {kind: Cold([self._make(kind) for _ in range(self._copies(kind))]) for kind in contenders()}

    def _copies(self, kind: str) -> int:
        if kind == DEFINITION:
            return 1
        touched_by_one_row = self.shape.top_k * self.shape.parameters * BYTES[kind]
        return 1 + int(COLD_BYTES / touched_by_one_row / 2)

    def _make(self, kind: str) -> Callable[..., Tensor]:
        s = self.shape
        if kind == DEFINITION:
            plain = [torch.randn(s.num_experts, *sizes) for sizes in ((2 * s.width, s.hidden), (s.hidden, s.width))]
            return partial(_plain_moe, GatedMLPWeights(*(PlainWeights(Codes(weight)) for weight in plain)))
        if kind == ONEDNN:
            return OneDNNExperts(s)
        gate_up = random_weights(kind, s.num_experts, 2 * s.width, s.hidden)
        return partial(_moe, GatedMLPWeights(gate_up, random_weights(kind, s.num_experts, s.hidden, s.width)))

    def weights_read(self, rows: int) -> float:
        """The mean over the choices that are measured."""
        touched = [len(torch.bincount(experts_TK.flatten()).nonzero()) for experts_TK in self._choices(rows)]
        return sum(touched) / len(touched) * self.shape.parameters

    def _choices(self, rows: int) -> list[Tensor]:
        generator = torch.Generator().manual_seed(rows)
        scores = torch.rand(16, rows, self.shape.num_experts, generator=generator)
        return list(scores.topk(self.shape.top_k).indices)

    def calls(self, rows: int) -> dict[str, Call]:
        """A call of every form; the choices of experts change with every call."""
        x_TD = torch.randn(rows, self.shape.hidden).bfloat16()
        weights_TK = torch.full((rows, self.shape.top_k), 1 / self.shape.top_k)
        return {
            kind: partial(_with_next, cold, cycle(self._choices(rows)), x_TD, weights_TK)
            for kind, cold in self.forms.items()
        }


def _with_next(call: Callable[..., Tensor], choices: Iterator[Tensor], x_TD: Tensor, weights_TK: Tensor) -> Tensor:
    return call(x_TD, next(choices), weights_TK)


def _moe(weights: GatedMLPWeights[PackedWeights], x_TD: Tensor, experts_TK: Tensor, weights_TK: Tensor) -> Tensor:
    return packed.moe(x_TD, experts_TK, weights_TK, weights)


def _plain_moe(weights: GatedMLPWeights[PlainWeights], x_TD: Tensor, experts_TK: Tensor, weights_TK: Tensor) -> Tensor:
    return reference.moe(x_TD, experts_TK, weights_TK, weights)


class OneDNNExperts:
    """What stood before: two products per expert that has tokens, and passes over memory between them."""

    def __init__(self, shape: Experts) -> None:
        def packs(outputs: int, inputs: int) -> list[Tensor]:
            return [onednn_pack(torch.randn(outputs, inputs).bfloat16()) for _ in range(shape.num_experts)]

        self.gate_up, self.down = packs(2 * shape.width, shape.hidden), packs(shape.hidden, shape.width)

    def __call__(self, x_TD: Tensor, experts_TK: Tensor, weights_TK: Tensor) -> Tensor:
        experts_S, order_S = experts_TK.flatten().sort(stable=True)
        counts = torch.bincount(experts_S, minlength=len(self.down)).tolist()
        x_SD = x_TD.index_select(0, order_S // experts_TK.shape[1])
        pieces = zip(torch.split(x_SD, counts), self.gate_up, self.down, strict=True)
        outs = [onednn_matmul(down, silu_mul(onednn_matmul(gate_up, x))) for x, gate_up, down in pieces if len(x)]
        y_SD = torch.cat(outs)
        y_TKD = y_SD.new_empty(y_SD.shape).index_copy(0, order_S, y_SD).view(*experts_TK.shape, -1)
        return moe_combine(y_TKD, weights_TK, None, None)


@dataclass(frozen=True, slots=True)
class CallTiming:
    """One call, and what it has to do at least."""

    seconds: float
    bytes_read: float
    operations: float

    def figures(self, roofline: Roofline) -> dict[str, float]:
        share = roofline.seconds(self.bytes_read, self.operations) / self.seconds
        return {"ms": round(self.seconds * 1e3, 4), "share": round(share, 3)}


def measure(case: MatrixCase | ExpertsCase, rows: int, repeats: int) -> dict[str, CallTiming]:
    """Every contender, in turn; the first round is not counted."""
    calls = {kind: call for kind, call in case.calls(rows).items() if kind != DEFINITION or rows <= FEW_ROWS}
    times: dict[str, list[float]] = {kind: [] for kind in calls}
    for _ in range(1 + repeats):
        for kind, call in calls.items():
            times[kind].append(seconds_of(call, 0.02))
    work = case.weights_read(rows), case.operations_per_row * rows
    return {kind: CallTiming(median(found), work[0] * BYTES[kind], work[1]) for kind, (_, *found) in times.items()}


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
    before, measured = measure_roofline(), {}
    for model, name, case in cases(arguments.models):
        for rows in arguments.rows:
            key = f"{model}: {name}: {rows} rows"
            measured[key] = measure(case, rows, arguments.repeats)
            print(key, {kind: f"{found.seconds * 1e3:.3f} ms" for kind, found in measured[key].items()})
    roofline = before.or_better(measure_roofline())
    results: dict[str, object] = {"roofline": asdict(roofline), "threads": torch.get_num_threads()}
    for key, kinds in measured.items():
        results[key] = {kind: found.figures(roofline) for kind, found in kinds.items()}
    print(record.write("kernels", results))


if __name__ == "__main__":
    main()

"""Products of rows with weights that were packed once: compiled for this processor, or else by their definition.

Weights are float32, bfloat16, int8 with a scale per output, or int4 with a scale per output and group of 32 inputs, of
any number of inputs and outputs; what is added up is float32. `pack` gives them the form that is multiplied here:
`Panels` for the compiled products, in which every output row has the same bits whatever else is in the call and however
many threads compute it, and the `PlainWeights` of product_reference.py, which defines the products, where there are no
compiled ones. No library's product of narrow types is called: which of them a processor has is not to be relied on.

Shapes: T tokens, S dispatched (token, expert) pairs, K choices a token, E experts, I inputs, O outputs, F inner width,
D hidden width, G groups of 32 inputs.
"""

import ctypes
import os
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

from model.kernels import native, product_reference
from model.kernels.product_reference import PlainWeights

PANEL = 32  # outputs that lie together
GROUP = 32  # inputs that share a scale in int4
LARGE_PAGE = 2 << 20


class Kind(IntEnum):
    """The numbers of product_weights.inc."""

    F32 = 0
    BF16 = 1
    INT8 = 2
    INT4 = 3


KINDS = {torch.float32: Kind.F32, torch.bfloat16: Kind.BF16, torch.int8: Kind.INT8, torch.uint8: Kind.INT4}
BYTES_OF_EIGHT = {Kind.F32: 32, Kind.BF16: 16, Kind.INT8: 8, Kind.INT4: 4}


class _Matrix(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("outputs", ctypes.c_int64),
        ("inputs", ctypes.c_int64),
        ("kind", ctypes.c_int64),
    )


class _Choice(ctypes.Structure):
    _fields_ = (
        ("experts", ctypes.c_void_p),
        ("weights", ctypes.c_void_p),
        ("gate_up", ctypes.c_void_p),
        ("down", ctypes.c_void_p),
        ("shared_gate_up", ctypes.c_void_p),
        ("shared_down", ctypes.c_void_p),
        ("shared_gate", ctypes.c_void_p),
        ("shared_gate_row", ctypes.c_int64),
        ("tokens", ctypes.c_int64),
        ("top_k", ctypes.c_int64),
        ("num_experts", ctypes.c_int64),
        ("hidden", ctypes.c_int64),
        ("clamped", ctypes.c_int64),
        ("alpha", ctypes.c_float),
        ("limit", ctypes.c_float),
    )


def available() -> bool:
    """Whether the compiled products can be used on this machine; ROUTELM_REFERENCE_KERNELS=1 forbids it."""
    return os.environ.get("ROUTELM_REFERENCE_KERNELS") != "1" and native.available("product")


class Panels:
    """Packed weights: E matrices [O, I].

    `codes_EOI` are float32 or bfloat16 [E, O, I]; int8 [E, O, I] with float32 `scales` [E, O]; or four bits in two's
    complement, uint8 [E, O, I / 2] with the even input in the low half of a byte, with bfloat16 `scales` [E, O, G].
    """

    def __init__(self, codes_EOI: Tensor, scales: Tensor | None = None, bias_EO: Tensor | None = None) -> None:
        self.kind = KINDS[codes_EOI.dtype]
        self.experts, self.outputs, width = codes_EOI.shape
        self.inputs = width * 2 if self.kind is Kind.INT4 else width
        if self.kind is Kind.INT4 and self.inputs % GROUP:
            raise ValueError(f"int4 weights of {self.inputs} inputs cannot be packed: it takes a multiple of {GROUP}")
        self.data = _pack(codes_EOI, self.kind, self.inputs)
        self.scales = None if scales is None else _panel_scales(scales)
        self.bias = None if bias_EO is None else _padded(bias_EO.detach().float())
        pointers = [None if t is None else t.data_ptr() for t in (self.data, self.scales, self.bias)]
        self._matrix = _Matrix(*pointers, self.outputs, self.inputs, self.kind)
        self.address = ctypes.addressof(self._matrix)

    @property
    def is_quantized(self) -> bool:
        """Whether it holds codes and not weights."""
        return self.kind in (Kind.INT8, Kind.INT4)

    def rows(self, outputs_T: Tensor) -> Tensor:
        """The weights of those outputs (int64) of the one matrix, unless it `is_quantized`: [T, I]."""
        assert not self.is_quantized
        dtype = torch.float32 if self.kind is Kind.F32 else torch.bfloat16
        outputs_T, found_TI = outputs_T.contiguous(), torch.empty(len(outputs_T), self.inputs, dtype=dtype)
        unpack = native.function("product", "unpack_rows", *[ctypes.c_int64] * 5)
        arguments = (self.address, outputs_T.data_ptr(), len(found_TI), found_TI.data_ptr(), torch.get_num_threads())
        native.run(unpack, *arguments, keep=(self, outputs_T, found_TI))
        return found_TI

    @property
    def nbytes(self) -> int:
        """Memory that the packed weights take."""
        return sum(t.nbytes for t in (self.data, self.scales, self.bias) if t is not None)


def _pack(codes_EOI: Tensor, kind: Kind, inputs: int) -> Tensor:
    codes_EOI = codes_EOI.detach().contiguous()
    experts, outputs, _ = codes_EOI.shape
    panels = -(-outputs // PANEL)
    padded_inputs = -(-inputs // GROUP) * GROUP
    data = _room(experts * panels * PANEL * padded_inputs * BYTES_OF_EIGHT[kind] // 8)
    types = (ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 5)
    pack = native.function("product", "pack", *types)
    pack(codes_EOI.data_ptr(), data.data_ptr(), kind, experts, outputs, inputs, torch.get_num_threads())
    return data


def _room(nbytes: int) -> Tensor:
    """Memory that starts on a large page, if it fills one; `pack` asks the system for large pages there."""
    if nbytes < LARGE_PAGE:
        return torch.empty(nbytes, dtype=torch.uint8)
    room = torch.empty(nbytes + LARGE_PAGE, dtype=torch.uint8)  # what is not written to takes no memory
    start = -room.data_ptr() % LARGE_PAGE
    return room[start : start + nbytes]


def _padded(values_EO: Tensor) -> Tensor:
    """Zeros behind the outputs, up to whole panels."""
    return functional.pad(values_EO, (0, -values_EO.shape[1] % PANEL)).contiguous()


def _panel_scales(scales: Tensor) -> Tensor:
    """As the compiled code reads them: [E, O] padded, or [E, panels, G, 32]."""
    if scales.dim() == 2:
        return _padded(scales.float())
    padded_EGO = functional.pad(scales.to(torch.bfloat16).transpose(1, 2), (0, -scales.shape[1] % PANEL))
    return padded_EGO.unflatten(2, (-1, PANEL)).transpose(1, 2).contiguous()


def pack(codes_EOI: Tensor, scales: Tensor | None = None, bias_EO: Tensor | None = None) -> Panels | PlainWeights:
    """Weights in the form in which they are multiplied on this machine; see `Panels` for the arguments."""
    return (Panels if available() else PlainWeights)(codes_EOI, scales, bias_EO)


def product(x_TI: Tensor, weights: Panels | PlainWeights) -> Tensor:
    """x_TI times the one matrix: [T, O] in x's type: bfloat16, float16 or float32."""
    if isinstance(weights, PlainWeights):
        return product_reference.product_of(x_TI, weights).to(x_TI.dtype)
    return _product(x_TI, None, weights)


def sums(x_TI: Tensor, weights: Panels | PlainWeights) -> Tensor:
    """The same product in float32, whatever x's type: what is added up, not rounded."""
    if isinstance(weights, PlainWeights):
        return product_reference.product_of(x_TI, weights)
    return _product(x_TI, None, weights, rounded=False)


def grouped_product(x_SI: Tensor, counts_E: Tensor, weights: Panels | PlainWeights) -> Tensor:
    """Rows sorted by expert, `counts_E` (int64) of them for each, times their expert's matrix: [S, O]."""
    if isinstance(weights, PlainWeights):
        return product_reference.grouped_product_of(x_SI, counts_E, weights)
    return _product(x_SI, counts_E, weights)


def _product(x: Tensor, counts_E: Tensor | None, weights: Panels, *, rounded: bool = True) -> Tensor:
    assert x.shape[1] == weights.inputs
    if x.dtype == torch.float16:
        y = _product(x.float(), counts_E, weights)
        return y.half() if rounded else y
    x = x.contiguous()
    out = x.new_empty(x.shape[0], weights.outputs, dtype=x.dtype if rounded else torch.float32)
    counts = 0 if counts_E is None else counts_E.data_ptr()
    sizes = (weights.experts, weights.address, out.data_ptr(), x.shape[0], torch.get_num_threads())
    call = _functions("product" if rounded else "sums", 7)[x.dtype]
    native.run(call, x.data_ptr(), counts, *sizes, keep=(x, counts_E, weights, out))
    return out


@dataclass(frozen=True, slots=True, eq=False)
class FeedForwardWeights:
    """Of a gated feed-forward, or of one per expert: gate and up as one matrix (gate first), and down."""

    gate_up: Panels
    down: Panels


def experts(
    x_TD: Tensor,
    experts_TK: Tensor,
    weights_TK: Tensor,
    routed: FeedForwardWeights,
    shared: FeedForwardWeights | None = None,
    shared_gate_T: Tensor | None = None,
    clamp: tuple[float, float] | None = None,
) -> Tensor:
    """All feed-forwards of a layer in one call, see `product_reference.experts`: [T, D].

    Each token's outputs are added up in the order of the experts' numbers, the shared one last.
    """
    assert experts_TK.dtype == torch.int64
    assert weights_TK.dtype == torch.float32
    tensors = (experts_TK.contiguous(), weights_TK.contiguous(), shared_gate_T)
    choices = (experts_TK.shape[1], routed.gate_up.experts)
    return _experts(x_TD, tensors, (routed, shared), choices, clamp)


def feed_forward(x_TD: Tensor, weights: FeedForwardWeights, clamp: tuple[float, float] | None = None) -> Tensor:
    """One gated feed-forward for all tokens in one call: [T, D]."""
    return _experts(x_TD, (None, None, None), (None, weights), (0, 0), clamp)


def _experts(
    x_TD: Tensor,
    tensors: tuple[Tensor | None, ...],
    feed_forwards: tuple[FeedForwardWeights | None, FeedForwardWeights | None],
    choices: tuple[int, int],
    clamp: tuple[float, float] | None,
) -> Tensor:
    x_TD = x_TD.contiguous()
    out_TD = torch.empty_like(x_TD)
    if not len(x_TD):
        return out_TD
    gate = None if tensors[2] is None else tensors[2].float()
    pointers = [None if t is None else t.data_ptr() for t in tensors[:2]]
    for weights in feed_forwards:
        pointers += [None, None] if weights is None else [weights.gate_up.address, weights.down.address]
    pointers += [None, 0] if gate is None else [gate.data_ptr(), gate.stride(0)]
    choice = _Choice(*pointers, len(x_TD), *choices, x_TD.shape[1], clamp is not None, *(clamp or (0.0, 0.0)))
    call = _functions("experts", 4)[x_TD.dtype]
    addresses = (x_TD.data_ptr(), ctypes.addressof(choice), out_TD.data_ptr())
    native.run(call, *addresses, torch.get_num_threads(), keep=(x_TD, choice, *tensors, gate, *feed_forwards, out_TD))
    return out_TD


@cache
def _functions(name: str, arguments: int) -> dict[torch.dtype, Callable[..., None]]:
    """The compiled function by element type. All arguments are 64 bits wide: addresses and counts."""
    types = [ctypes.c_int64] * arguments
    return {dtype: native.function("product", f"{name}_{suffix}", *types) for dtype, suffix in native.SUFFIXES.items()}

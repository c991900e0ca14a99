"""The compiled matrix products, on weights that were packed once.

Every output row has the same bits whatever else is in the call and however many threads compute it. Sums are float32.
reference.py defines all functions.

Shapes: T tokens, S dispatched (token, expert) pairs, K choices per token, E experts, I inputs, O outputs, F inner
width, D hidden width, G groups of 32 inputs.
"""

import ctypes
import mmap
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from model.kernels import native
from model.kernels.library import load_library
from model.kernels.matmul.codes import GROUP_SIZE, Codes, Format
from model.kernels.types import GatedMLPWeights

PANEL = 32  # outputs that are stored together
HUGE_PAGE = 2 << 20
SMALL = 4 * HUGE_PAGE  # tensors of fewer bytes are gathered
SHORT_BF16 = 6  # the format of weights.h in which weights of BF16 may be packed
SHORT_FROM = 64 << 10  # bytes: smaller weights stay in the cache
SHORT_ENOUGH = 0.9  # of its size as BF16

# per weight, without scales
BITS = {Format.F32: 32, Format.BF16: 16, Format.INT8: 8, Format.INT4: 4, Format.Q8_0: 8, Format.Q4_1: 4}
# Formats for which activations take the same form, so that one call can multiply them by all
ALIKE = ({Format.F32, Format.BF16}, {Format.INT8, Format.Q8_0, Format.Q4_1}, {Format.INT4})
LARGEST = torch.finfo(torch.float16).max


class _PackedMatrix(ctypes.Structure):
    """The structure `PackedMatrix` of weights.h."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("starts", ctypes.c_void_p),
        ("outputs", ctypes.c_int64),
        ("inputs", ctypes.c_int64),
        ("format", ctypes.c_int64),
    )


class _MoECall(ctypes.Structure):
    """The structure `MoECall` of moe.h."""

    _fields_ = (
        ("experts", ctypes.c_void_p),
        ("weights", ctypes.c_void_p),
        ("routed_gate_up", ctypes.c_void_p),
        ("routed_down", ctypes.c_void_p),
        ("shared_gate_up", ctypes.c_void_p),
        ("shared_down", ctypes.c_void_p),
        ("shared_gate", ctypes.c_void_p),
        ("shared_gate_stride", ctypes.c_int64),
        ("tokens", ctypes.c_int64),
        ("top_k", ctypes.c_int64),
        ("num_experts", ctypes.c_int64),
        ("hidden", ctypes.c_int64),
        ("clamped", ctypes.c_int64),
        ("alpha", ctypes.c_float),
        ("limit", ctypes.c_float),
    )


class PackedWeights:
    """E matrices [O, I] in the layout of weights.h.

    `short_exponents` packs bfloat16 in about 12 bits, without loss: where products of few rows wait for memory.
    """

    def __init__(self, codes: Codes, bias_EO: Tensor | None = None, *, short_exponents: bool = False) -> None:
        self.format, (self.experts, self.outputs, self.inputs) = codes.format, codes.shape
        if self.format >= Format.INT4 and self.inputs % GROUP_SIZE:
            raise ValueError(
                f"{self.format.name} weights have {self.inputs} inputs: a multiple of {GROUP_SIZE} is needed"
            )
        self.scales: Tensor | None
        self.starts: Tensor | None = None  # of the panels, where they differ in size
        short = _pack_short(codes.values) if short_exponents and self.format is Format.BF16 else None
        if short:
            self.data, self.scales, self.starts = short
        else:
            self.data, self.scales = _pack(codes.values, self.format, self.inputs), _pack_scales(codes)
        self.bias = None if bias_EO is None else _pad_outputs(bias_EO.detach().float())
        layout = SHORT_BF16 if short else self.format
        self._matrix = _PackedMatrix(*self._addresses(), self.outputs, self.inputs, layout)
        self.address = ctypes.addressof(self._matrix)

    @property
    def is_quantized(self) -> bool:
        """Whether the weights are integers with scales."""
        return self.format >= Format.INT8

    @property
    def nbytes(self) -> int:
        """Memory that the packed weights take."""
        return sum(tensor.nbytes for tensor in self.tensors)

    @property
    def tensors(self) -> list[Tensor]:
        """The packed matrices, their scales (or exponents), biases and starts, as far as there are any."""
        return [tensor for tensor in (self.data, self.scales, self.bias, self.starts) if tensor is not None]

    def move(self, move: Callable[[Tensor], Tensor]) -> None:
        """Replace each tensor by what `move` returns for it, its content in other memory. `address` stays the same."""
        self.data = move(self.data)
        self.scales, self.bias, self.starts = (
            None if tensor is None else move(tensor) for tensor in (self.scales, self.bias, self.starts)
        )
        matrix = self._matrix
        matrix.data, matrix.scales, matrix.bias, matrix.starts = self._addresses()

    def _addresses(self) -> list[int | None]:
        tensors = (self.data, self.scales, self.bias, self.starts)
        return [None if tensor is None else tensor.data_ptr() for tensor in tensors]

    def rows(self, outputs_T: Tensor) -> Tensor:
        """The weights of some outputs (int64) of a single matrix that is not quantized: [T, I]."""
        assert not self.is_quantized
        dtype = torch.float32 if self.format is Format.F32 else torch.bfloat16
        outputs_T, found_TI = outputs_T.contiguous(), torch.empty(len(outputs_T), self.inputs, dtype=dtype)
        arguments = (self.address, outputs_T.data_ptr(), len(found_TI), found_TI.data_ptr(), torch.get_num_threads())
        native.run(_function("unpack_rows", len(arguments)), *arguments, keep=(self, outputs_T, found_TI))
        return found_TI


def _pack(values_EOI: Tensor, format: Format, inputs: int) -> Tensor:
    values_EOI = values_EOI.detach().contiguous()
    experts, outputs, _ = values_EOI.shape
    padded_outputs, padded_inputs = -(-outputs // PANEL) * PANEL, -(-inputs // GROUP_SIZE) * GROUP_SIZE
    data = _allocate(experts * padded_outputs * padded_inputs * BITS[format] // 8)
    sizes = (format, experts, outputs, inputs, torch.get_num_threads())
    addresses = (values_EOI.data_ptr(), data.data_ptr())
    native.run(_function("pack_weights", 7), *addresses, *sizes, keep=(values_EOI, data))
    return data


def short_exponents_pay(nbytes: int) -> bool:
    """Whether products with weights of this size are faster with short exponents on this processor."""
    library = load_library("matmul")
    assert library is not None
    return nbytes >= SHORT_FROM and bool(library.short_exponents_pay())


def _pack_short(values_EOI: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
    """Panels, the exponents of their groups and where they start; None where that saves little."""
    values_EOI = values_EOI.detach().contiguous()
    experts, outputs, inputs = values_EOI.shape
    panels, groups = experts * -(-outputs // PANEL), -(-inputs // GROUP_SIZE)
    exponents = torch.empty(panels, groups, dtype=torch.uint8)
    starts = torch.empty(panels + 1, dtype=torch.int64)
    sizes = (experts, outputs, inputs, torch.get_num_threads())
    addresses = (exponents.data_ptr(), starts.data_ptr())
    native.run(
        _function("measure_short", 7), values_EOI.data_ptr(), *addresses, *sizes, keep=(values_EOI, exponents, starts)
    )
    nbytes = int(starts[-1])
    if nbytes > SHORT_ENOUGH * exponents.numel() * GROUP_SIZE * PANEL * values_EOI.itemsize:
        return None
    data = _allocate(nbytes)
    pack = _function("pack_short_weights", 8)
    keep = (values_EOI, data, exponents, starts)
    native.run(pack, values_EOI.data_ptr(), data.data_ptr(), *addresses, *sizes, keep=keep)
    return data, exponents, starts


def _allocate(nbytes: int) -> Tensor:
    """Memory that is not initialized. If it fills a huge page, it starts on one: `pack_weights` advises huge pages."""
    if nbytes < HUGE_PAGE:
        return torch.empty(nbytes, dtype=torch.uint8)
    memory = torch.empty(nbytes + HUGE_PAGE, dtype=torch.uint8)  # pages that are never written take no memory
    start = -memory.data_ptr() % HUGE_PAGE
    return memory[start : start + nbytes]


class _HugePages:
    """Memory in huge pages, where the system has them, that is handed out piece by piece."""

    def __init__(self, nbytes: int) -> None:
        pages = mmap.mmap(-1, nbytes + 2 * HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with suppress(OSError):  # a system without
            pages.madvise(mmap.MADV_HUGEPAGE)
        memory = torch.frombuffer(pages, dtype=torch.uint8)
        self._free = memory[-memory.data_ptr() % HUGE_PAGE :]

    def copy(self, tensor: Tensor) -> Tensor:
        copied = self._free[: tensor.nbytes].view(tensor.dtype).view(tensor.shape).copy_(tensor)
        self._free = self._free[_padded_size(tensor) :]
        return copied


def gather(weights: Iterable[PackedWeights]) -> Iterator[int]:
    """Move small matrices and scales next to each other into huge pages, before any product is computed.

    A product that reads a matrix of half a megabyte from memory then takes a tenth less time: it misses the TLB less
    often. Of matrices from 8 MB on, little lies outside of the huge pages that they fill by themselves.

    Yields the bytes of each of the weights when they have moved, so that the caller can return freed memory on the way.
    """
    small = {one: size for one in weights if (size := sum(map(_padded_size, filter(_is_small, one.tensors))))}
    if not small or not hasattr(mmap, "MADV_HUGEPAGE"):
        return
    try:
        pages = _HugePages(sum(small.values()))
    except OSError:  # a limit on memory: nothing is lost but some speed
        return
    for one, size in small.items():
        one.move(lambda tensor: pages.copy(tensor) if _is_small(tensor) else tensor)
        yield size


def _is_small(tensor: Tensor) -> bool:
    return tensor.nbytes < SMALL


def _padded_size(tensor: Tensor) -> int:
    """Bytes up to the next cache line."""
    return -(-tensor.nbytes // 64) * 64


def _pad_outputs(values_EO: Tensor) -> Tensor:
    """Pads with zeros to whole panels."""
    return functional.pad(values_EO, (0, -values_EO.shape[1] % PANEL)).contiguous()


def _pack_scales(codes: Codes) -> Tensor | None:
    """[E, O] padded, or [E, O, G] as [E, panels, G, 32]; with minima as [E, panels, G, 2, 32]."""
    if codes.scales is None:
        return None
    if codes.format is Format.INT8:
        return _pad_outputs(codes.scales.float())
    panels = [_group_panels(numbers) for numbers in (codes.scales, codes.minima) if numbers is not None]
    return torch.stack(panels, 3).contiguous()


def _group_panels(numbers_EOG: Tensor) -> Tensor:
    """float16 [E, panels, G, 32].

    Of bfloat16 numbers, those from 2^-17 to 65504 stay as they are. Smaller ones are off by at most 2^-25, larger ones
    become 65504.
    """
    half_EGO = numbers_EOG.float().clamp(-LARGEST, LARGEST).half().transpose(1, 2)
    padded_EGO = functional.pad(half_EGO, (0, -numbers_EOG.shape[1] % PANEL))
    return padded_EGO.unflatten(2, (-1, PANEL)).transpose(1, 2)


def linear(x_TI: Tensor, weights: PackedWeights, out_dtype: torch.dtype | None = None) -> Tensor:
    return _linear(x_TI, None, weights, out_dtype or x_TI.dtype)


def grouped_linear(x_SI: Tensor, counts_E: Tensor, weights: PackedWeights) -> Tensor:
    return _linear(x_SI, counts_E, weights, x_SI.dtype)


def _linear(x: Tensor, counts_E: Tensor | None, weights: PackedWeights, out_dtype: torch.dtype) -> Tensor:
    assert x.shape[1] == weights.inputs
    if x.dtype == torch.float16:
        return _linear(x.float(), counts_E, weights, torch.float32).to(out_dtype)
    x, out = x.contiguous(), x.new_empty(x.shape[0], weights.outputs, dtype=out_dtype)
    addresses = (x.data_ptr(), 0 if counts_E is None else counts_E.data_ptr())
    sizes = (weights.experts, weights.address, out.data_ptr(), x.shape[0], torch.get_num_threads())
    kernel = _function(f"matmul_{native.SUFFIXES[x.dtype]}_{native.SUFFIXES[out_dtype]}", 7)
    native.run(kernel, *addresses, *sizes, keep=(x, counts_E, weights, out))
    return out


def moe(
    x_TD: Tensor,
    experts_TK: Tensor,
    weights_TK: Tensor,
    routed: GatedMLPWeights[PackedWeights],
    shared: GatedMLPWeights[PackedWeights] | None = None,
    shared_gate_T: Tensor | None = None,
    clamp: tuple[float, float] | None = None,
) -> Tensor:
    """In one call. The outputs of a token's experts are added up in the order of the experts, the shared one last."""
    assert experts_TK.dtype == torch.int64
    assert weights_TK.dtype == torch.float32
    choices = (experts_TK.contiguous(), weights_TK.contiguous())
    return _moe(x_TD, choices, (routed, shared), shared_gate_T, clamp)


def gated_mlp(x_TD: Tensor, weights: GatedMLPWeights[PackedWeights]) -> Tensor:
    return _moe(x_TD, None, (None, weights), None, None)


def supports_fused(dtype: torch.dtype, *mlps: GatedMLPWeights[Any]) -> bool:
    """Whether one call of `moe` or `gated_mlp` supports the type of x and all these weights."""
    matrices = [matrix for mlp in mlps for matrix in (mlp.gate_up, mlp.down)]
    if dtype not in native.SUFFIXES or not all(isinstance(matrix, PackedWeights) for matrix in matrices):
        return False
    formats = {matrix.format for matrix in matrices}
    alike = any(formats <= kinds for kinds in ALIKE)
    return alike and all(mlp.down.outputs % PANEL == 0 and mlp.down.inputs % PANEL == 0 for mlp in mlps)


def _moe(
    x_TD: Tensor,
    choices: tuple[Tensor, Tensor] | None,
    weights: tuple[GatedMLPWeights[PackedWeights] | None, GatedMLPWeights[PackedWeights] | None],
    shared_gate_T: Tensor | None,
    clamp: tuple[float, float] | None,
) -> Tensor:
    """`weights`: of the routed experts and of the shared one."""
    x_TD = x_TD.contiguous()
    out_TD = torch.empty_like(x_TD)
    if not len(x_TD):
        return out_TD
    gate_T = None if shared_gate_T is None else shared_gate_T.float()
    top_k, num_experts = 0, 0
    arguments: list[int | None] = [None, None]
    if choices is not None and weights[0] is not None:
        arguments = [tensor.data_ptr() for tensor in choices]
        top_k, num_experts = choices[0].shape[1], weights[0].gate_up.experts
    for mlp in weights:
        arguments += [None, None] if mlp is None else [mlp.gate_up.address, mlp.down.address]
    arguments += [None, 0] if gate_T is None else [gate_T.data_ptr(), gate_T.stride(0)]
    arguments += [len(x_TD), top_k, num_experts, x_TD.shape[1], clamp is not None]
    call = _MoECall(*arguments, *(clamp or (0.0, 0.0)))
    addresses = (x_TD.data_ptr(), ctypes.addressof(call), out_TD.data_ptr())
    kernel = _function(f"moe_{native.SUFFIXES[x_TD.dtype]}", 4)
    native.run(kernel, *addresses, torch.get_num_threads(), keep=(x_TD, call, choices, gate_T, weights, out_TD))
    return out_TD


@cache
def _function(name: str, num_arguments: int) -> Callable[..., None]:
    """A compiled function. All arguments are 64 bits wide: addresses and counts."""
    return native.function("matmul", name, *[ctypes.c_int64] * num_arguments)

"""The operations on which the network's speed depends, as functions on plain tensors.

This file is the only place that chooses an implementation. The definitions are in reference.py and matmul/reference.py;
they compute on other devices than the CPU and where nothing was compiled. On a CPU, the compiled kernels compute: those
of cpu/autograd.py while gradients are recorded, otherwise those of cpu/inference.py, and matmul/packed.py. On a GPU,
while gradients are recorded, TorchInductor compiles the definitions. The environment variable
ROUTELM_REFERENCE_KERNELS=1 forces the definitions everywhere.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from functools import cache, wraps
from types import ModuleType
from typing import Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor

from model.kernels import library, reference, sampling_reference
from model.kernels.cpu import autograd, inference
from model.kernels.matmul import packed, quantize, quantize_reference
from model.kernels.matmul import reference as matmul_reference
from model.kernels.matmul.codes import Codes
from model.kernels.matmul.packed import PackedWeights
from model.kernels.matmul.reference import PlainWeights
from model.kernels.types import GatedMLPWeights

P = ParamSpec("P")
R = TypeVar("R")
Kernel = Callable[Concatenate[Tensor, P], R]
FrozenWeights = PackedWeights | PlainWeights


def _only_definitions() -> bool:
    return os.environ.get("ROUTELM_REFERENCE_KERNELS") == "1"


@cache
def compiled() -> bool:
    """Whether the compiled CPU kernels are used."""
    if _only_definitions():
        return False
    return all(library.load_library(source) is not None for source in ("cpu", "matmul"))


def instruction_set() -> str | None:
    """The instruction set of the compiled kernels, namely of the matrix products; None if the definitions compute."""
    return library.instruction_set("matmul") if compiled() else None


def _kernel(
    definition: Kernel[P, R], serving: Kernel[P, R], training: Kernel[P, R] | None = None, *, fused: bool = True
) -> Kernel[P, R]:
    """A kernel with compiled versions without gradients and with them.

    Without a version for training, PyTorch differentiates the definition. On a GPU it is compiled if
    `fused`: compiling what only few bytes pass through takes seconds and saves nothing.
    """
    differentiable = training or definition

    @wraps(definition)
    def kernel(x: Tensor, /, *rest: P.args, **named: P.kwargs) -> R:
        if fused and x.is_cuda and torch.is_grad_enabled():
            return _on_gpu(definition)(x, *rest, **named)
        if not x.is_cpu or not compiled():
            return definition(x, *rest, **named)
        return (differentiable if torch.is_grad_enabled() else serving)(x, *rest, **named)

    return kernel


def _training_kernel(definition: Kernel[P, R], training: Kernel[P, R]) -> Kernel[P, R]:
    """A kernel that only training calls, with a compiled version that has gradients or computes one."""

    @wraps(definition)
    def kernel(x: Tensor, /, *rest: P.args, **named: P.kwargs) -> R:
        if x.is_cuda:
            return _on_gpu(definition)(x, *rest, **named)
        return (training if x.is_cpu and compiled() else definition)(x, *rest, **named)

    return kernel


@cache
def _on_gpu(definition: Kernel[P, R]) -> Kernel[P, R]:
    """The definition, compiled for every new shape: it reads and writes memory once, not once for each operation."""
    return definition if _only_definitions() else torch.compile(definition, dynamic=False)


rms_norm = _kernel(reference.rms_norm, inference.rms_norm, autograd.rms_norm)
layer_norm = _kernel(reference.layer_norm, inference.layer_norm)
add_norm = _kernel(reference.add_norm, inference.add_norm, autograd.add_norm)
gated_rms_norm = _kernel(reference.gated_rms_norm, inference.gated_rms_norm, autograd.gated_rms_norm)
silu_mul = _kernel(reference.silu_mul, inference.silu_mul, autograd.silu_mul)
gelu_mul = _kernel(reference.gelu_mul, inference.gelu_mul)
squared_relu = _kernel(reference.squared_relu, inference.squared_relu)
clamped_mul = _kernel(reference.clamped_mul, inference.clamped_mul)
sigmoid_mul = _kernel(reference.sigmoid_mul, inference.sigmoid_mul, fused=False)
scaled = _kernel(reference.scaled, inference.scaled)
add_scaled = _kernel(reference.add_scaled, inference.add_scaled)
embedding = _kernel(reference.embedding, inference.embedding, fused=False)
rotate = _kernel(reference.rotate, inference.rotate, fused=False)
qk_norm_rotate = _kernel(reference.qk_norm_rotate, inference.qk_norm_rotate, autograd.qk_norm_rotate)
rotary_tables = _kernel(reference.rotary_tables, inference.rotary_tables, fused=False)
top_k_softmax = _kernel(reference.top_k_softmax, inference.top_k_softmax, fused=False)
count_routing = _kernel(reference.count_routing, inference.count_routing, fused=False)
sample = _kernel(sampling_reference.sample, inference.sample)
moe_combine = _kernel(reference.moe_combine, inference.moe_combine)
time_steps = _kernel(reference.time_steps, inference.time_steps)

# Kernels that advance a cache.
short_conv = _kernel(reference.short_conv, inference.short_conv)
gated_delta = _kernel(reference.gated_delta, inference.gated_delta)
mamba_scan = _kernel(reference.mamba_scan, inference.mamba_scan)
kimi_delta = _kernel(reference.kimi_delta, inference.kimi_delta)
selective_scan = _kernel(reference.selective_scan, inference.selective_scan)
store_kv = _kernel(reference.store_kv, inference.store_kv)
paged_attention = _kernel(reference.paged_attention, inference.paged_attention)

# Kernels that train on whole rows.
short_conv_train = _training_kernel(reference.short_conv_train, autograd.short_conv_train)
gated_delta_train = _training_kernel(reference.gated_delta_train, autograd.gated_delta_train)
softmax_gradient = _training_kernel(reference.softmax_gradient, autograd.softmax_gradient)

# Operations that PyTorch computes everywhere.
mamba_scan_train = reference.mamba_scan_train
kimi_delta_train = reference.kimi_delta_train
selective_scan_train = reference.selective_scan_train


def quantize_int4(weight: Tensor) -> Codes:
    """Weights [..., O, I], I a multiple of the group size, as INT4."""
    return (quantize if compiled() else quantize_reference).quantize_int4(weight)


def pack_weights(codes: Codes, bias_EO: Tensor | None = None) -> FrozenWeights:
    """Frozen weights [E, O, I] in the form in which they are multiplied here."""
    if not compiled():
        return PlainWeights(codes, bias_EO)
    return PackedWeights(codes, bias_EO, short_exponents=packed.short_exponents_pay(codes.nbytes))


def gather_weights(weights: Iterable[FrozenWeights]) -> Iterator[int]:
    """Move the small ones of a network to where they are read fastest. Yields bytes that were moved and freed."""
    return packed.gather(one for one in weights if isinstance(one, PackedWeights))


def _matmul_backend(weights: FrozenWeights) -> ModuleType:
    return packed if isinstance(weights, PackedWeights) else matmul_reference


def linear(x_TI: Tensor, weights: FrozenWeights, out_dtype: torch.dtype | None = None) -> Tensor:
    """x W^T + b for a single matrix: [T, O], by default in x's type; `out_dtype` may be float32."""
    y_TO: Tensor = _matmul_backend(weights).linear(x_TI, weights, out_dtype)
    return y_TO


def grouped_linear(x_SI: Tensor, counts_E: Tensor, weights: FrozenWeights) -> Tensor:
    """Rows that are sorted by expert, `counts_E` (int64) for each, times the matrix of their expert: [S, O]."""
    y_SO: Tensor = _matmul_backend(weights).grouped_linear(x_SI, counts_E, weights)
    return y_SO


def supports_fused_mlp(dtype: torch.dtype, *mlps: GatedMLPWeights[FrozenWeights]) -> bool:
    """Whether `gated_mlp` or `moe` has one compiled call for activations of this type and all these weights."""
    return packed.supports_fused(dtype, *mlps)


def gated_mlp(x_TD: Tensor, weights: GatedMLPWeights[FrozenWeights]) -> Tensor:
    """down(silu(gate(x)) * up(x)): [T, D]."""
    y_TD: Tensor = _matmul_backend(weights.down).gated_mlp(x_TD, weights)
    return y_TD


def moe(
    x_TD: Tensor,
    experts_TK: Tensor,
    weights_TK: Tensor,
    routed: GatedMLPWeights[FrozenWeights],
    shared: GatedMLPWeights[FrozenWeights] | None = None,
    shared_gate_T: Tensor | None = None,
    clamp: tuple[float, float] | None = None,
) -> Tensor:
    """The sum of weight * expert(x) over a token's experts, plus the shared expert: [T, D]; see matmul/reference.py."""
    arguments = (x_TD, experts_TK, weights_TK, routed, shared, shared_gate_T, clamp)
    y_TD: Tensor = _matmul_backend(routed.down).moe(*arguments)
    return y_TD

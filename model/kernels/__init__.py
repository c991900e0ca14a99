"""The few operations the network's speed hangs on, as functions on plain tensors.

`reference.py` defines each of them. `cpu.py` is the compiled version and `cpu_autograd.py` the compiled one with
gradients. The choice is made here and nowhere else: compiled where the library was built and the tensors are on the
CPU, otherwise the definition. ROUTELM_REFERENCE_KERNELS=1 forces the definition.
"""

import os
from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor

from model.kernels import cpu, cpu_autograd, library, native, product, reference

P = ParamSpec("P")
R = TypeVar("R")
Kernel = Callable[Concatenate[Tensor, P], R]

_FORCED = os.environ.get("ROUTELM_REFERENCE_KERNELS") == "1"


def compiled() -> bool:
    """Whether the compiled CPU kernels are in use."""
    return not _FORCED and native.available()


def instruction_set() -> str | None:
    """What the compiled kernels in use were built for: that of the matrix products. None: the definitions compute."""
    return library.instruction_set("product") if compiled() and product.available() else None


def _kernel(definition: Kernel[P, R], serving: Kernel[P, R], training: Kernel[P, R] | None = None) -> Kernel[P, R]:
    """The definition, behind it the compiled versions: one without gradients and one with them.

    Where there is none for training, PyTorch differentiates the definition.
    """
    differentiable = training or definition

    @wraps(definition)
    def kernel(x: Tensor, /, *rest: P.args, **named: P.kwargs) -> R:
        if not x.is_cpu or not compiled():
            return definition(x, *rest, **named)
        return (differentiable if torch.is_grad_enabled() else serving)(x, *rest, **named)

    return kernel


rms_norm = _kernel(reference.rms_norm, cpu.rms_norm, cpu_autograd.rms_norm)
add_norm = _kernel(reference.add_norm, cpu.add_norm, cpu_autograd.add_norm)
gated_rms_norm = _kernel(reference.gated_rms_norm, cpu.gated_rms_norm, cpu_autograd.gated_rms_norm)
silu_mul = _kernel(reference.silu_mul, cpu.silu_mul, cpu_autograd.silu_mul)
clamped_mul = _kernel(reference.clamped_mul, cpu.clamped_mul)
sigmoid_mul = _kernel(reference.sigmoid_mul, cpu.sigmoid_mul)
scaled = _kernel(reference.scaled, cpu.scaled)
add_scaled = _kernel(reference.add_scaled, cpu.add_scaled)
rows_of = _kernel(reference.rows_of, cpu.rows_of)
rotate = _kernel(reference.rotate, cpu.rotate)
rotary_tables = _kernel(reference.rotary_tables, cpu.rotary_tables)
top_k_softmax = _kernel(reference.top_k_softmax, cpu.top_k_softmax)
highest = _kernel(reference.highest, cpu.highest)
combine = _kernel(reference.combine, cpu.combine)
time_steps = _kernel(reference.time_steps, cpu.time_steps)

# What advances a cache.
short_conv = _kernel(reference.short_conv, cpu.short_conv)
gated_delta = _kernel(reference.gated_delta, cpu.gated_delta)
mamba_scan = _kernel(reference.mamba_scan, cpu.mamba_scan)
store_kv = _kernel(reference.store_kv, cpu.store_kv)
paged_attention = _kernel(reference.paged_attention, cpu.paged_attention)

# What trains on whole rows: its compiled versions have gradients or are one.
short_conv_train = _kernel(reference.short_conv_train, cpu_autograd.short_conv_train, cpu_autograd.short_conv_train)
delta_rule_train = _kernel(reference.delta_rule_train, cpu_autograd.delta_rule_train, cpu_autograd.delta_rule_train)
softmax_gradient = _kernel(reference.softmax_gradient, cpu_autograd.softmax_gradient, cpu_autograd.softmax_gradient)

# What is PyTorch's anywhere.
delta_gates = reference.delta_gates
mamba_scan_train = reference.mamba_scan_train

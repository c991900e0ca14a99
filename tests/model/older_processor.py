"""A processor without AVX-512, as far as PyTorch and oneDNN are concerned: what they have no code for there raises."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

NARROW = (torch.bfloat16, torch.float16)
# what PyTorch hands to oneDNN for narrow types, where it finds the instructions for them
PRODUCTS = frozenset(
    {"addbmm", "addmm", "addmv", "addr", "baddbmm", "bmm", "conv1d", "conv2d", "convolution", "dot", "einsum"}
    | {"linear", "matmul", "mm", "mv", "_convolution", "_grouped_mm", "_scaled_grouped_mm", "_scaled_mm"}
    | {"scaled_dot_product_attention", "_scaled_dot_product_flash_attention_for_cpu", "_int_mm"}
)


class OlderProcessor(TorchDispatchMode):
    """Within it, operations of oneDNN's own raise, and PyTorch's matrix products of bfloat16 and float16 do too."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        namespace, name = func.name().split("::")
        if namespace == "mkldnn" or name.startswith("mkldnn"):
            raise RuntimeError(f"{func}: this processor has no AVX-512")
        leaves = tree_leaves((args, kwargs))
        is_narrow = any(isinstance(leaf, Tensor) and leaf.dtype in NARROW for leaf in leaves)
        if is_narrow and name.split(".")[0] in PRODUCTS:
            raise RuntimeError(f"{func}: this processor has no products of narrow types")
        return func(*args, **(kwargs or {}))

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """See `_Watch` in model/kernels/kernel_graph.py."""
        return False

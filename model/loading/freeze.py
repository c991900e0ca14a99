"""Freezes a network for serving on a CPU: packs every matrix as its quantization scheme says."""

import torch

from model.layers.frozen_linear import FrozenEmbedding, FrozenLinear
from model.layers.linear import GroupedLinear, Linear, RouterLinear
from model.network import CausalLM
from model.quantization import Scheme, plain_scheme


def freeze_network(network: CausalLM, scheme: Scheme | None = None) -> CausalLM:
    """Pack all matrices, quantized if there is a scheme. The network cannot be trained afterwards."""
    for name, _ in list(network.named_modules()):
        freeze_module(network, name, scheme or plain_scheme(network.dtype))
    return network.requires_grad_(False).eval()


def freeze_module(network: CausalLM, name: str, scheme: Scheme | None) -> None:
    """Replace a matrix module by its packed form; the plain weight is freed with it."""
    module = network.get_submodule(name)
    if scheme is None or not isinstance(module, Linear | GroupedLinear):
        return
    own = scheme_of(network, name, scheme)
    make = own.linear if isinstance(module, Linear) else own.grouped
    network.set_submodule(name, make(module.weight, module.bias))


def freeze_tied_head(network: CausalLM, scheme: Scheme | None) -> None:
    """Pack the matrix of head and embedding. If it is not quantized, both share the packed weights."""
    dtype = network.dtype
    network.tie_head()
    freeze_module(network, "head", scheme)
    head = network.get_submodule("head")
    if isinstance(head, FrozenLinear) and not head.weights.is_quantized:
        network.set_submodule("embedding", FrozenEmbedding(head.weights, dtype))


def scheme_of(network: CausalLM, name: str, scheme: Scheme) -> Scheme:
    """The scheme of one matrix: the head may have a scheme of its own, and routers always stay in float32."""
    if name == "head":
        return scheme.head
    return plain_scheme(torch.float32) if isinstance(network.get_submodule(name), RouterLinear) else scheme

"""Freezes a network for serving on a CPU: packs every matrix as its quantization scheme says."""

from collections.abc import Iterator

import torch
from torch import nn

from model import kernels
from model.kernels.matmul.codes import Codes
from model.layers.frozen_linear import FrozenEmbedding, FrozenGroupedLinear, FrozenLinear
from model.layers.linear import GroupedLinear, Linear, RouterLinear
from model.network import CausalLM
from model.quantization import Scheme, plain_scheme
from model.quantization.scheme import frozen_grouped, frozen_linear

EMBEDDING = "embedding.weight"


def freeze_network(network: CausalLM, scheme: Scheme | None = None) -> CausalLM:
    """Pack all matrices, quantized if there is a scheme. The network cannot be trained afterwards."""
    for name, module in list(network.named_modules()):
        if isinstance(module, Linear | GroupedLinear):
            _freeze_module(network, name, scheme or plain_scheme(network.dtype))
    return network.requires_grad_(False).eval()


def is_matrix(network: CausalLM, parameter: str) -> bool:
    """Whether a parameter is a matrix to pack, which the embedding is if it is tied to the head."""
    owner, _, leaf = parameter.rpartition(".")
    is_linear = leaf == "weight" and isinstance(network.get_submodule(owner), Linear | GroupedLinear)
    return is_linear or (parameter == EMBEDDING and network.config.tie_word_embeddings)


def freeze_matrix(network: CausalLM, name: str, scheme: Scheme) -> None:
    """Replace a module that has a matrix (`is_matrix`) by its packed form; the plain weight is freed with it."""
    if name == "embedding":
        _freeze_tied_head(network, scheme)
    else:
        _freeze_module(network, name, scheme)


def freeze_codes(network: CausalLM, name: str, codes: Codes) -> None:
    """The same for a matrix that is quantized already, whose plain weight was not loaded."""
    module = network.get_submodule(name)
    if name == "embedding":
        weight_VD = codes.dequantized(network.embedding.weight.dtype)
        network.embedding.weight = nn.Parameter(weight_VD, requires_grad=False)
        network.set_submodule("head", frozen_linear(codes, None))
    elif isinstance(module, Linear):
        network.set_submodule(name, frozen_linear(codes, module.bias))
    else:
        assert isinstance(module, GroupedLinear)
        network.set_submodule(name, frozen_grouped(codes, module.bias))


def gather_weights(network: CausalLM) -> Iterator[int]:
    """Move the small packed matrices to where they are read fastest, in the order in which they are used.

    Yields bytes that were moved, and freed where they were before.
    """
    frozen = [module for module in network.modules() if isinstance(module, FrozenLinear | FrozenGroupedLinear)]
    return kernels.gather_weights(module.weights for module in frozen)


def _freeze_module(network: CausalLM, name: str, scheme: Scheme) -> None:
    module = network.get_submodule(name)
    assert isinstance(module, Linear | GroupedLinear)
    own = scheme_of(network, name, scheme)
    make = own.linear if isinstance(module, Linear) else own.grouped
    network.set_submodule(name, make(module.weight, module.bias))


def _freeze_tied_head(network: CausalLM, scheme: Scheme) -> None:
    """Pack the matrix of head and embedding. If it is not quantized, both share the packed weights."""
    dtype = network.dtype
    network.tie_head()
    _freeze_module(network, "head", scheme)
    head = network.get_submodule("head")
    if isinstance(head, FrozenLinear) and not head.weights.is_quantized:
        network.set_submodule("embedding", FrozenEmbedding(head.weights, dtype))


def scheme_of(network: CausalLM, name: str, scheme: Scheme) -> Scheme:
    """The scheme of one matrix: the head may have a scheme of its own, and routers always stay in float32.

    `name` is that of a module; "embedding" means the head that is tied to it.
    """
    if name in ("head", "embedding"):
        return scheme.head
    return plain_scheme(torch.float32) if isinstance(network.get_submodule(name), RouterLinear) else scheme

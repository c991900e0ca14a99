"""Copies of the network that share its weights: micro-batches run side by side, one thread each.

On a CPU with few cores this beats splitting every small matrix product over all of them.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from model.layers.feed_forward import Routed
from model.network import CausalLM


class Replica:
    """A network that sums its own gradients, in float32, as each parameter's backward ends."""

    def __init__(self, network: CausalLM) -> None:
        self.network = network
        self.routers = [b.feed_forward.router for b in network.blocks if isinstance(b.feed_forward, Routed)]
        self.gradients = {
            name: torch.zeros_like(parameter, dtype=torch.float32) for name, parameter in network.named_parameters()
        }
        for name, parameter in network.named_parameters():
            parameter.register_post_accumulate_grad_hook(self._collector(name))

    def _collector(self, name: str) -> Callable[[Tensor], None]:
        gradients = self.gradients  # not the replica itself: the hook would keep it alive

        def collect(parameter: Tensor) -> None:
            assert parameter.grad is not None
            gradients[name] += parameter.grad
            parameter.grad = None

        return collect

    def zero(self) -> None:
        for gradient in self.gradients.values():
            gradient.zero_()


def share_weights(network: CausalLM) -> CausalLM:
    """A second network over the very same weights and buffers, with gradients of its own."""
    twin = CausalLM(network.config).to(network.embedding.weight.device)
    twin.tie_head()
    for (_, ours), (_, theirs) in zip(twin.named_parameters(), network.named_parameters(), strict=True):
        ours.data = theirs.data
    for ours_module, their_module in zip(twin.modules(), network.modules(), strict=True):
        _share_buffers(ours_module, their_module)
    return twin


def _share_buffers(ours: nn.Module, theirs: nn.Module) -> None:
    for name, buffer in theirs.named_buffers(recurse=False):
        setattr(ours, name, buffer)


def mean_gradients(replicas: list[Replica], micro_batches: int) -> dict[str, Tensor]:
    """The sum over replicas, always in their order, divided by the number of micro-batches."""
    first, *others = replicas
    total = first.gradients
    for other in others:
        for name, gradient in other.gradients.items():
            total[name] += gradient
    return {name: gradient.div_(micro_batches) for name, gradient in total.items()}

"""Copies of the network that share its weights: micro-batches run side by side, one thread each.

On a CPU with few cores this beats splitting every small matrix product over all of them.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor, nn

from model.layers.feed_forward import MoE
from model.layers.router import Router
from model.network import CausalLM

R = TypeVar("R")


class Replica:
    """A network that sums its own gradients, in float32, as each parameter's backward ends."""

    def __init__(self, network: CausalLM) -> None:
        self.network = network
        self.routers = [b.feed_forward.router for b in network.blocks if isinstance(b.feed_forward, MoE)]
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


class Workers:
    """Replicas of a network that run micro-batches in parallel; they share the threads evenly."""

    def __init__(self, network: CausalLM, count: int) -> None:
        twins = [share_weights(network) for _ in range(count - 1)]
        self.replicas = [Replica(network), *map(Replica, twins)]
        threads = max(torch.get_num_threads() // count, 1)
        self._pool = ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(threads,))

    @property
    def routers(self) -> list[Router]:
        """Those of the network itself."""
        return self.replicas[0].routers

    def run(self, work: Callable[[Replica, int], R], count: int) -> list[R]:
        """Run `work` 0 to `count` - 1, assigned round-robin; the results of the first replica come first.

        The assignment does not depend on speed, so that sums are reproducible.
        """

        def share(first: int) -> list[R]:
            return [work(self.replicas[first], number) for number in range(first, count, len(self.replicas))]

        return [result for results in self._pool.map(share, range(len(self.replicas))) for result in results]

    def mean_gradients(self, micro_batches: int) -> dict[str, Tensor]:
        """The sum over replicas, always in their order, divided by the number of micro-batches."""
        first, *others = self.replicas
        for other in others:
            for name, gradient in other.gradients.items():
                first.gradients[name] += gradient
        return {name: gradient.div_(micro_batches) for name, gradient in first.gradients.items()}

    def zero_gradients(self) -> None:
        for replica in self.replicas:
            replica.zero()

"""The exponential moving average of the weights of one run (Polyak and Juditsky 1992)."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from model.training.optimizer import Optimizer


class ExponentialMovingAverage:
    """Averages the optimizer's float32 master weights; `decay` is the weight of the average after many steps."""

    def __init__(self, optimizer: Optimizer, decay: float) -> None:
        self._optimizer, self._decay, self._updates = optimizer, decay, 0
        self._mean = {name: master.clone() for name, master in optimizer.masters.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after a step. The first steps count more, so that the start is forgotten soon."""
        self._updates += 1
        decay = min(self._decay, self._updates / (self._updates + 9))
        for name, mean in self._mean.items():
            mean.lerp_(self._optimizer.masters[name], 1 - decay)

    @contextmanager
    def in_network(self) -> Iterator[None]:
        """The network holds the average inside, and the weights of the last step again after it."""
        self._optimizer.show(self._mean)
        try:
            yield
        finally:
            self._optimizer.show(self._optimizer.masters)

    def state_tensors(self) -> dict[str, Tensor]:
        """Everything a resumed run needs, by name."""
        return {f"ema/{name}": mean for name, mean in self._mean.items()}

    def load_state_tensors(self, tensors: dict[str, Tensor], updates: int) -> None:
        """Take over what `state_tensors` gave, after so many updates; the masters where there is none of it."""
        for name, mean in self._mean.items():
            mean.copy_(tensors.get(f"ema/{name}", self._optimizer.masters[name]))
        self._updates = updates

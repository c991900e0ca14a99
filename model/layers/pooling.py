"""Pooling: one vector from the hidden states of a text, which come chunk by chunk.

Shapes: T tokens of a chunk, D hidden width.
"""

from collections.abc import Mapping
from typing import Literal, Protocol

import torch
from torch import Tensor

PoolingType = Literal["lasttoken", "cls", "mean"]  # the names of sentence-transformers


class Pooler(Protocol):
    """Takes the hidden states of one text in their order. The result does not depend on how they are cut into chunks.

    `needs_all_tokens`: whether it needs more than the hidden state of the last token.
    """

    needs_all_tokens: bool

    def add(self, hidden_TD: Tensor) -> None: ...

    def result(self) -> Tensor:
        """The vector, float32 [D]. There must have been at least one token."""
        ...


class LastTokenPooler:
    needs_all_tokens = False

    def add(self, hidden_TD: Tensor) -> None:
        self._last_D = hidden_TD[-1].float().clone()

    def result(self) -> Tensor:
        return self._last_D


class FirstTokenPooler:
    needs_all_tokens = True

    def __init__(self) -> None:
        self._first_D: Tensor | None = None

    def add(self, hidden_TD: Tensor) -> None:
        if self._first_D is None:
            self._first_D = hidden_TD[0].float().clone()

    def result(self) -> Tensor:
        assert self._first_D is not None
        return self._first_D


class MeanPooler:
    """Adds the tokens one by one, in float64: the order of a sum over a whole chunk would depend on its length."""

    needs_all_tokens = True

    def __init__(self) -> None:
        self._sum_D: Tensor | None = None
        self._num_tokens = 0

    def add(self, hidden_TD: Tensor) -> None:
        rows_TD = hidden_TD.double()
        if self._sum_D is not None:
            rows_TD = torch.cat([self._sum_D[None], rows_TD])
        self._sum_D = rows_TD.cumsum(0)[-1]
        self._num_tokens += len(hidden_TD)

    def result(self) -> Tensor:
        assert self._sum_D is not None
        return (self._sum_D / self._num_tokens).float()


POOLERS: Mapping[PoolingType, type[Pooler]] = {
    "lasttoken": LastTokenPooler,
    "cls": FirstTokenPooler,
    "mean": MeanPooler,
}

"""The experts of single tokens, for the requests that ask for them.

Shapes: T tokens of the step, R of them whose routing is wanted, L MoE layers, K choices per token.
"""

from dataclasses import dataclass
from operator import gt
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from server.engine.routing.step_routing import StepRouting
from server.engine.sequence import Sequence
from server.engine.types import ReturnedRouting, TokenRouting

GATE_DECIMALS = 9  # half as long in JSON as the nearest double, and closer than float32 sums are to each other


@dataclass(frozen=True, slots=True)
class _Choices:
    """Experts and gates, largest gate first, by row and, within a row, by layer: those of row r begin at r * L."""

    layers: tuple[int, ...]  # L
    experts: list[tuple[int, ...]]
    gates: list[tuple[float, ...]]

    def of_token(self, row: int, asked: ReturnedRouting) -> TokenRouting:
        start, end = row * len(self.layers), (row + 1) * len(self.layers)
        experts, gates = self.experts[start:end], self.gates[start:end]
        if asked.layers != self.layers:
            places = [self.layers.index(layer) for layer in asked.layers]
            experts, gates = [experts[place] for place in places], [gates[place] for place in places]
        if asked.top is not None:
            experts, gates = [some[: asked.top] for some in experts], [some[: asked.top] for some in gates]
        return TokenRouting(tuple(experts), tuple(gates))


def routing_by_request(sequences: list[Sequence], routing: StepRouting | None) -> dict[str, list[TokenRouting]]:
    """The routing of the step's tokens that is asked for and not known yet, by request id."""
    wanted = _wanted_rows(sequences)
    if not wanted or routing is None:
        return {}
    choices = _choices(routing, [row for rows, _ in wanted.values() for row in rows])
    found, start = {}, 0
    for request_id, (rows, asked) in wanted.items():
        found[request_id] = [choices.of_token(row, asked) for row in range(start, start + len(rows))]
        start += len(rows)
    return found


def _wanted_rows(sequences: list[Sequence]) -> dict[str, tuple[range, ReturnedRouting]]:
    """By request id the rows of the step's tokens, without those whose routing was recorded before a preemption."""
    wanted, start = {}, 0
    for sequence in sequences:
        end = start + sequence.num_scheduled_tokens
        if (asked := sequence.request.routing.returned) is not None:
            first, known = sequence.first_routed - sequence.num_computed_tokens, len(sequence.routing)
            if rows := range(start + max(first + known, 0), min(end, start + first + asked.max_tokens)):
                wanted[sequence.request_id] = rows, asked
        start = end
    return wanted


def _choices(routing: StepRouting, rows: list[int]) -> _Choices:
    """The choices of the rows, in few operations: for a few tokens, each takes as long as for many."""
    gates_RLK, experts_RLK = _rows_of(routing.weights_LTK, rows), _rows_of(routing.experts_LTK, rows)
    k = gates_RLK.shape[-1]
    experts, gates = experts_RLK.ravel().tolist(), _rounded(gates_RLK)
    if _descend_to_above_zero(gates, k):
        return _Choices(routing.layers, _in_tuples(experts, k), _in_tuples(gates, k))
    order_RLK = np.argsort(-gates_RLK, axis=-1, kind="stable")
    gates_RLK = np.take_along_axis(gates_RLK, order_RLK, axis=-1)
    experts = np.take_along_axis(experts_RLK, order_RLK, axis=-1).ravel().tolist()
    counts = np.count_nonzero(gates_RLK, axis=-1).ravel().tolist()
    return _Choices(
        routing.layers,
        [choices[:count] for choices, count in zip(_in_tuples(experts, k), counts, strict=True)],
        [choices[:count] for choices, count in zip(_in_tuples(_rounded(gates_RLK), k), counts, strict=True)],
    )


def _rows_of(array_LTK: Tensor, rows: list[int]) -> NDArray[Any]:
    """[R, L, K]."""
    array_TLK = array_LTK.numpy(force=True).swapaxes(0, 1)
    return array_TLK if len(rows) == len(array_TLK) else array_TLK[rows]


def _rounded(gates_RLK: NDArray[np.float32]) -> list[float]:
    found: list[float] = gates_RLK.astype(np.float64).round(GATE_DECIMALS).ravel().tolist()
    return found


def _descend_to_above_zero(gates: list[float], k: int) -> bool:
    """Whether each k of the gates are as they are to be told: the order of equal ones is known before rounding only."""
    return 0.0 not in gates and all(all(map(gt, gates[i::k], gates[i + 1 :: k])) for i in range(k - 1))


def _in_tuples(values: list[Any], k: int) -> list[tuple[Any, ...]]:
    return list(zip(*[iter(values)] * k, strict=True))

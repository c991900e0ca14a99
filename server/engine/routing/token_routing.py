"""The experts of single tokens, for the requests that ask for them.

Shapes: T tokens of the step, R of them whose routing is wanted, L MoE layers, K choices per token.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from model.layers.router import Routing
from server.engine.sequence import Sequence
from server.engine.types import TokenRouting

GATE_DECIMALS = 9  # half as long in JSON as the nearest double, and closer than float32 sums are to each other


@dataclass(frozen=True, slots=True)
class _Choices:
    """Experts and gates by row and layer, largest gate first, and how many of them are not just padding."""

    experts: list[list[list[int]]]
    gates: list[list[list[float]]]
    counts: list[list[int]]

    def of_token(self, row: int, layers: list[int], top: int | None) -> TokenRouting:
        experts, gates, counts = self.experts[row], self.gates[row], self.counts[row]
        if top is not None:
            counts = [min(count, top) for count in counts]
        return TokenRouting(
            tuple([tuple(experts[layer][: counts[layer]]) for layer in layers]),
            tuple([tuple(gates[layer][: counts[layer]]) for layer in layers]),
        )


def routing_by_request(
    sequences: list[Sequence], routings: tuple[Routing | None, ...]
) -> dict[str, list[TokenRouting]]:
    """The routing of the step's tokens that is asked for and not known yet, by request id."""
    if all(sequence.request.routing.returned is None for sequence in sequences):
        return {}
    wanted = _wanted_rows(sequences)
    if not wanted:
        return {}
    choices = _choices(routings, [row for rows in wanted.values() for row in rows])
    place = {layer: index for index, layer in enumerate(_moe_layers(routings))}
    found, start = {}, 0
    for sequence, rows in wanted.items():
        asked = sequence.request.routing.returned
        assert asked is not None
        layers = [place[layer] for layer in asked.layers]
        found[sequence.request_id] = [
            choices.of_token(row, layers, asked.top) for row in range(start, start + len(rows))
        ]
        start += len(rows)
    return found


def _wanted_rows(sequences: list[Sequence]) -> dict[Sequence, range]:
    """The rows of the step's tokens, by sequence, without those whose routing was recorded before a preemption."""
    wanted, start = {}, 0
    for sequence in sequences:
        end = start + sequence.num_scheduled_tokens
        if (asked := sequence.request.routing.returned) is not None:
            first, known = sequence.first_routed - sequence.num_computed_tokens, len(sequence.routing)
            last = min(end, start + first + asked.max_tokens)
            wanted[sequence] = range(start + max(first + known, 0), last)
        start = end
    return {sequence: rows for sequence, rows in wanted.items() if rows}


def _moe_layers(routings: tuple[Routing | None, ...]) -> list[int]:
    return [layer for layer, routing in enumerate(routings) if routing is not None]


def _choices(routings: tuple[Routing | None, ...], rows: list[int]) -> _Choices:
    """The choices of the rows. NumPy: for a few tokens it takes half as long as PyTorch."""
    found = [routing for routing in routings if routing is not None]
    gates_RLK = _stacked([routing.weights_TK for routing in found], rows)
    experts_RLK = _stacked([routing.experts_TK for routing in found], rows)
    if (gates_RLK[..., 1:] > gates_RLK[..., :-1]).any():
        order_RLK = np.argsort(-gates_RLK, axis=-1, kind="stable")
        gates_RLK = np.take_along_axis(gates_RLK, order_RLK, axis=-1)
        experts_RLK = np.take_along_axis(experts_RLK, order_RLK, axis=-1)
    counts_RL = np.count_nonzero(gates_RLK, axis=-1)
    rounded_RLK = gates_RLK.astype(np.float64).round(GATE_DECIMALS)
    return _Choices(experts_RLK.tolist(), rounded_RLK.tolist(), counts_RL.tolist())


def _stacked(layers_TK: list[Tensor], rows: list[int]) -> NDArray[Any]:
    """[R, L, K], where layers with fewer choices are filled up with zeros."""
    arrays = [layer_TK.numpy(force=True) for layer_TK in layers_TK]
    if len(rows) < len(arrays[0]):
        arrays = [array[rows] for array in arrays]
    width = max(array.shape[1] for array in arrays)
    if any(array.shape[1] < width for array in arrays):
        arrays = [np.pad(array, ((0, 0), (0, width - array.shape[1]))) for array in arrays]
    return np.stack(arrays, axis=1)

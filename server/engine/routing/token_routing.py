"""The experts of single tokens, for the requests that ask for them.

Shapes: T tokens of the step, R of them whose routing is wanted, L MoE layers, K choices per token.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from model.layers.router import Routing
from server.engine.sequence import Sequence
from server.engine.types import TokenRouting

GATE_DECIMALS = 9  # half as long in JSON as the nearest double, and closer than float32 sums are to each other


@dataclass(frozen=True, slots=True)
class _Choices:
    """Experts and gates, largest gate first: those of row r and layer l at r * num_layers + l."""

    num_layers: int
    experts: list[tuple[int, ...]]
    gates: list[tuple[float, ...]]

    def of_token(self, row: int, layers: list[int], top: int | None) -> TokenRouting:
        places = [row * self.num_layers + layer for layer in layers]
        return TokenRouting(
            tuple([self.experts[place][:top] for place in places]), tuple([self.gates[place][:top] for place in places])
        )


def routing_by_request(
    sequences: list[Sequence], routings: tuple[Routing | None, ...]
) -> dict[str, list[TokenRouting]]:
    """The routing of the step's tokens that is asked for and not known yet, by request id."""
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
            if rows := range(start + max(first + known, 0), last):
                wanted[sequence] = rows
        start = end
    return wanted


def _moe_layers(routings: tuple[Routing | None, ...]) -> list[int]:
    return [layer for layer, routing in enumerate(routings) if routing is not None]


def _choices(routings: tuple[Routing | None, ...], rows: list[int]) -> _Choices:
    """The choices of the rows, in few operations: for a few tokens, each takes as long as for many."""
    found = [routing for routing in routings if routing is not None]
    gates_RLK = _stacked([routing.weights_TK for routing in found], rows)
    experts_RLK = _stacked([routing.experts_TK for routing in found], rows)
    if (gates_RLK[..., 1:] > gates_RLK[..., :-1]).any():
        order_RLK = np.argsort(-gates_RLK, axis=-1, kind="stable")
        gates_RLK = np.take_along_axis(gates_RLK, order_RLK, axis=-1)
        experts_RLK = np.take_along_axis(experts_RLK, order_RLK, axis=-1)
    rounded_RLK = gates_RLK.astype(np.float64).round(GATE_DECIMALS)
    experts, gates = _last_axis_as_tuples(experts_RLK), _last_axis_as_tuples(rounded_RLK)
    if not gates_RLK.all():
        counts = np.count_nonzero(gates_RLK, axis=-1).ravel().tolist()
        experts, gates = ([x[:n] for x, n in zip(choices, counts, strict=True)] for choices in (experts, gates))
    return _Choices(len(found), experts, gates)


def _last_axis_as_tuples(array: NDArray[Any]) -> list[tuple[Any, ...]]:
    """Without the nested lists of `tolist`, which take longer than all else."""
    return list(zip(*[iter(array.ravel().tolist())] * array.shape[-1], strict=True))


def _stacked(layers_TK: list[Tensor], rows: list[int]) -> NDArray[Any]:
    """[R, L, K], where layers with fewer choices are filled up with zeros."""
    width = max(layer_TK.shape[1] for layer_TK in layers_TK)
    if any(layer_TK.shape[1] < width for layer_TK in layers_TK):
        layers_TK = [functional.pad(layer_TK, (0, width - layer_TK.shape[1])) for layer_TK in layers_TK]
    stacked_TLK = torch.stack(layers_TK, 1).numpy(force=True)
    return stacked_TLK if len(rows) == len(stacked_TLK) else stacked_TLK[rows]

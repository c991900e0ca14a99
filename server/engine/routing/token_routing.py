"""The experts of single tokens, for the requests that ask for them.

Shapes: T tokens of the step, R of them whose routing is wanted, L MoE layers, K choices per token.
"""

from collections.abc import Sequence as Rows

import torch
from torch import Tensor
from torch.nn import functional

from model.layers.router import Routing
from server.engine.sequence import Sequence
from server.engine.types import ReturnedRouting, TokenRouting

GATE_DECIMALS = 9  # half as long in JSON as the nearest double, and closer than float32 sums are to each other


def routing_by_request(
    sequences: list[Sequence], routings: tuple[Routing | None, ...]
) -> dict[str, list[TokenRouting]]:
    """The routing of the step's tokens that is asked for and not known yet, by request id."""
    if all(sequence.request.routing.returned is None for sequence in sequences):
        return {}
    wanted = _wanted_rows(sequences)
    experts, gates = _choices(routings, [row for rows in wanted.values() for row in rows])
    place = {layer: index for index, layer in enumerate(_moe_layers(routings))}
    found, start = {}, 0
    for sequence, rows in wanted.items():
        asked = sequence.request.routing.returned
        assert asked is not None
        layers = [place[layer] for layer in asked.layers]
        found[sequence.request_id] = [
            _token_routing(experts[row], gates[row], layers, asked) for row in range(start, start + len(rows))
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


def _choices(
    routings: tuple[Routing | None, ...], rows: list[int]
) -> tuple[list[list[list[int]]], list[list[list[float]]]]:
    """Experts and gates of the rows, largest gate first: lists [R][L][K]. Choices with gate 0 fill them up."""
    found = [routing for routing in routings if routing is not None]
    if not found or not rows:
        return [], []
    gates_RLK = _stacked([routing.weights_TK for routing in found], rows)
    experts_RLK = _stacked([routing.experts_TK for routing in found], rows)
    gates_RLK, order_RLK = gates_RLK.sort(dim=-1, descending=True, stable=True)
    return experts_RLK.gather(-1, order_RLK).tolist(), gates_RLK.double().round(decimals=GATE_DECIMALS).tolist()


def _stacked(layers_TK: list[Tensor], rows: list[int]) -> Tensor:
    """[R, L, K], where layers with fewer choices are filled up with zeros."""
    width = max(layer_TK.shape[1] for layer_TK in layers_TK)
    if any(layer_TK.shape[1] < width for layer_TK in layers_TK):
        layers_TK = [functional.pad(layer_TK, (0, width - layer_TK.shape[1])) for layer_TK in layers_TK]
    stacked_TLK = torch.stack(layers_TK, dim=1)
    return stacked_TLK if len(rows) == len(stacked_TLK) else stacked_TLK[rows]


def _token_routing(
    experts: Rows[Rows[int]], gates: Rows[Rows[float]], layers: list[int], asked: ReturnedRouting
) -> TokenRouting:
    counts = [min(sum(map(bool, gates[layer])), asked.top or len(gates[layer])) for layer in layers]
    return TokenRouting(
        tuple(tuple(experts[layer][:count]) for layer, count in zip(layers, counts, strict=True)),
        tuple(tuple(gates[layer][:count]) for layer, count in zip(layers, counts, strict=True)),
    )

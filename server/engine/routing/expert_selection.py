"""What the requests of a step ask of the routers: masked and forced experts, as tensors for the batch.

A forced layer is one in which all other experts are masked and the number of experts per token is that of the rest, so
the router weighs them as if there were no others. Shapes: T tokens of the step, E experts.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from server.engine.sequence import Sequence as EngineSequence


def masks_of(
    sequences: Sequence[EngineSequence], num_experts: Mapping[int, int], device: torch.device | str
) -> dict[int, Tensor]:
    """By layer the experts that the sequences' tokens must not go to: bool [T, E]; no layers without any request."""
    masks: dict[int, Tensor] = {}
    if not any(s.request.routing.masked_experts or s.request.routing.forced_experts for s in sequences):
        return masks
    num_tokens, start = sum(sequence.num_scheduled_tokens for sequence in sequences), 0
    for sequence in sequences:
        rows = slice(start, start := start + sequence.num_scheduled_tokens)
        routing = sequence.request.routing
        for are_forced, layers in ((False, routing.masked_experts), (True, routing.forced_experts)):
            for layer, experts in layers:
                if layer not in masks:
                    masks[layer] = torch.zeros(num_tokens, num_experts[layer], dtype=torch.bool, device=device)
                masks[layer][rows] = are_forced
                masks[layer][rows, list(experts)] = not are_forced
    return masks


def experts_by_layer(sequences: Sequence[EngineSequence], device: torch.device | str) -> dict[int, Tensor]:
    """For the layers that any request forces: the number of experts of each token, int64 [T]; 0: the model's own."""
    if not any(sequence.request.routing.forced_experts for sequence in sequences):
        return {}
    forced = [dict(sequence.request.routing.forced_experts) for sequence in sequences]
    layers = {layer for of_sequence in forced for layer in of_sequence}
    counts = torch.tensor([sequence.num_scheduled_tokens for sequence in sequences], device=device)
    own = [sequence.experts_per_token or 0 for sequence in sequences]
    numbers = {
        layer: [len(of_sequence.get(layer, ())) or k for of_sequence, k in zip(forced, own, strict=True)]
        for layer in layers
    }
    return {
        layer: torch.tensor(number_S, device=device).repeat_interleave(counts) for layer, number_S in numbers.items()
    }

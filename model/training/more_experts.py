"""More experts for a trained network: copies of its experts that have forgotten half of what these know.

Drop-Upcycling (arXiv 2502.19261): plain copies get the same tokens and the same gradients, and stay alike for long.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

FORGOTTEN = 0.5  # of the hidden units of a copy: drawn anew, with the mean and deviation of the matrix
ROUTER_NOISE = 0.5  # added to the router's row of a copy, in standard deviations of the router's weights

_GATE, _GATE_UP, _DOWN = "gate.weight", "experts.gate_up.weight", "experts.down.weight"


@torch.no_grad()
def with_more_experts(weights: Mapping[str, Tensor], num_experts: int, seed: int) -> dict[str, Tensor]:
    """The weights of a network whose layers had fewer experts, float32 by name; those with as many stay as they are.

    Expert e of the new ones is made of expert e modulo the old number.
    """
    generator = torch.Generator().manual_seed(seed)
    grown = dict(weights)
    for layer in (name.removesuffix(_DOWN) for name in weights if name.endswith(_DOWN)):
        gate, gate_up, down = (weights[layer + name] for name in (_GATE, _GATE_UP, _DOWN))
        if len(down) < num_experts:
            source_N = torch.arange(num_experts - len(down), device=down.device) % len(down)
            new_gate_up, new_down = _forgetful(gate_up[source_N], down[source_N], generator)
            grown[layer + _GATE_UP] = torch.cat([gate_up, new_gate_up])
            grown[layer + _DOWN] = torch.cat([down, new_down])
            rows = _noisy(gate[source_N], float(gate[: len(down)].std()), generator)
            # the rows after those of the experts, if any, gate the shared expert
            grown[layer + _GATE] = torch.cat([gate[: len(down)], rows, gate[len(down) :]])
    return grown


def _forgetful(gate_up_NHD: Tensor, down_NDF: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The experts with FORGOTTEN of their hidden units drawn anew. H is F, or 2F for a gate and an up matrix."""
    count, _, width = down_NDF.shape
    anew_NF = torch.stack([torch.randperm(width, generator=generator) < FORGOTTEN * width for _ in range(count)])
    anew_NF = anew_NF.to(down_NDF.device)
    anew_NH = anew_NF.repeat(1, gate_up_NHD.shape[1] // width)
    drawn_up, drawn_down = (_drawn_like(matrix, generator) for matrix in (gate_up_NHD, down_NDF))
    return torch.where(anew_NH[:, :, None], drawn_up, gate_up_NHD), torch.where(anew_NF[:, None], drawn_down, down_NDF)


def _drawn_like(matrices: Tensor, generator: torch.Generator) -> Tensor:
    """Normal numbers with the mean and deviation of each matrix [N, rows, columns]."""
    mean, deviation = matrices.mean((1, 2), keepdim=True), matrices.std((1, 2), keepdim=True)
    return mean + deviation * torch.randn(matrices.shape, generator=generator).to(matrices.device)


def _noisy(rows: Tensor, deviation: float, generator: torch.Generator) -> Tensor:
    return rows + ROUTER_NOISE * deviation * torch.randn(rows.shape, generator=generator).to(rows.device)

"""Muon for matrices, AdamW for the rest, over float32 master copies of the network's low-precision weights.

Muon (Jordan et al. 2024) replaces a matrix's momentum by the nearest orthogonal matrix, found with five Newton-Schulz
steps; a stack of expert matrices is handled matrix by matrix.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import UnionType

import torch
from torch import Tensor

from model.layers.linear import GroupedLinear, Linear, RouterLinear
from model.network import CausalLM


@dataclass(frozen=True, slots=True)
class WeightDecay:
    """Decoupled weight decay of the matrices (arXiv 1711.05101): `strength` times the learning rate, a step.

    `cautious` shrinks a weight only where the update shrinks it too (arXiv 2510.12402). `scheduled` multiplies by the
    share of the peak learning rate once more, so that the decay ends before the learning rate does.
    """

    strength: float = 0.02
    cautious: bool = False
    scheduled: bool = False

    def apply(self, master: Tensor, update: Tensor, rate: float, scale: float) -> None:
        """Shrink `master` in place. `rate` is the learning rate of this step, `scale` its share of the peak."""
        amount = rate * self.strength * (scale if self.scheduled else 1.0)
        if self.cautious:
            master.sub_(master * (update * master > 0), alpha=amount)
        else:
            master.mul_(1 - amount)


@dataclass(frozen=True, slots=True)
class OptimizerConfig:
    """Peak learning rates by kind of parameter. `clip` bounds the global gradient norm."""

    muon_lr: float = 0.02
    embedding_lr: float = 3e-3
    router_lr: float = 1e-3
    scalar_lr: float = 2e-3
    momentum: float = 0.95
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: WeightDecay = field(default_factory=WeightDecay)
    clip: float = 1.0

    def scaled(self, factor: float) -> "OptimizerConfig":
        """The same with other learning rates: each times the factor."""
        return replace(
            self,
            muon_lr=factor * self.muon_lr,
            embedding_lr=factor * self.embedding_lr,
            router_lr=factor * self.router_lr,
            scalar_lr=factor * self.scalar_lr,
        )


def orthogonalize(x: Tensor, steps: int = 5, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """About U V^T of each matrix U S V^T in `x` [..., m, n]: singular values pushed into 0.7 .. 1.2.

    `dtype` is that of the products: a processor without products of bfloat16 takes twenty times as long with them.
    """
    a, b, c = 3.4445, -4.7750, 2.0315  # the quintic that rises fastest at zero
    tall = x.shape[-2] > x.shape[-1]
    y = (x.mT if tall else x).to(dtype)
    y = y / (y.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = y @ y.mT
        y = a * y + (b * gram + c * gram @ gram) @ y
    return (y.mT if tall else y).to(x.dtype)


class Optimizer:
    """Owns the float32 master weights and the moments; after a step the network holds the rounded masters."""

    def __init__(self, network: CausalLM, config: OptimizerConfig) -> None:
        self.config = config
        self.parameters = dict(network.named_parameters())
        self.masters = {name: p.detach().float().clone() for name, p in self.parameters.items()}
        self.routers = _weights_of(network, RouterLinear)
        self.muon = _weights_of(network, Linear | GroupedLinear) - self.routers
        self.first = {name: torch.zeros_like(master) for name, master in self.masters.items()}
        self.second = {name: torch.zeros_like(master) for name, master in self.masters.items() if name not in self.muon}
        self.steps = 0
        self._groups = [_Group(names, self) for names in self._names_of_groups()]

    @torch.no_grad()
    def step(self, gradients: dict[str, Tensor], scale: float) -> Tensor:
        """Apply mean gradients with all learning rates times `scale`; returns their norm before clipping.

        Gradients that are not finite change nothing, but the step counts, as it does in the state of the run.
        """
        self.steps += 1
        norm = torch.stack(torch._foreach_norm(list(gradients.values()))).norm()
        if not norm.isfinite():  # such a step would destroy the weights
            return norm
        clip = torch.clamp(self.config.clip / (norm + 1e-6), max=1.0)
        for group in self._groups:
            clipped = list(torch._foreach_mul([gradients[name] for name in group.names], clip))
            if group.is_muon:
                self._muon(group, clipped, scale)
            else:
                self._adamw(group, clipped, scale)
            torch._foreach_copy_(group.parameters, group.masters)
        return norm

    def _names_of_groups(self) -> list[list[str]]:
        """Matrices of one shape together, and all other weights with the same learning rate: few calls, not many."""
        groups: dict[object, list[str]] = {}
        for name, master in self.masters.items():
            kind = master.shape[-2:] if name in self.muon else self._adam_rate(name)
            groups.setdefault((name in self.muon, kind), []).append(name)
        return list(groups.values())

    def _muon(self, group: "_Group", gradients: list[Tensor], scale: float) -> None:
        torch._foreach_lerp_(group.first, gradients, 1 - self.config.momentum)
        nesterov = torch._foreach_lerp(gradients, group.first, self.config.momentum)
        counts = [x.shape[:-2].numel() for x in nesterov]
        stacked = torch.cat([x.reshape(-1, *x.shape[-2:]) for x in nesterov])
        updates = orthogonalize(stacked, dtype=group.parameters[0].dtype).split(counts)
        rate = self.config.muon_lr * scale
        for master, update in zip(group.masters, updates, strict=True):
            update = update.view_as(master)
            self.config.weight_decay.apply(master, update, rate, scale)
            master.sub_(update, alpha=rate * max(1.0, master.shape[-2] / master.shape[-1]) ** 0.5)

    def _adamw(self, group: "_Group", gradients: list[Tensor], scale: float) -> None:
        beta1, beta2 = self.config.betas
        torch._foreach_lerp_(group.first, gradients, 1 - beta1)
        torch._foreach_lerp_(group.second, torch._foreach_mul(gradients, gradients), 1 - beta2)
        size = torch._foreach_div(group.second, 1 - beta2**self.steps)
        torch._foreach_sqrt_(size)
        torch._foreach_add_(size, 1e-9)
        update = torch._foreach_div(group.first, size)
        rate = self._adam_rate(group.names[0]) * scale / (1 - beta1**self.steps)
        torch._foreach_add_(group.masters, update, alpha=-rate)

    def _adam_rate(self, name: str) -> float:
        if name.startswith(("embedding", "head")):
            return self.config.embedding_lr
        return self.config.router_lr if name in self.routers else self.config.scalar_lr

    def state_tensors(self) -> dict[str, Tensor]:
        """Everything a resumed run needs, by name."""
        groups = {"master": self.masters, "first": self.first, "second": self.second}
        return {f"{group}/{name}": tensor for group, named in groups.items() for name, tensor in named.items()}

    def load_masters(self, masters: dict[str, Tensor]) -> None:
        """Begin anew from these weights, without moments. ValueError where they are another network's."""
        moments = {key: tensor for key, tensor in self.state_tensors().items() if not key.startswith("master/")}
        self.load_state_tensors(moments | {f"master/{name}": tensor for name, tensor in masters.items()}, 0)

    def load_state_tensors(self, tensors: dict[str, Tensor], steps: int) -> None:
        """Take over what `state_tensors` gave. ValueError where it comes from another network."""
        for key, tensor in self.state_tensors().items():
            if key not in tensors or tensors[key].shape != tensor.shape:
                found = list(tensors[key].shape) if key in tensors else "nothing"
                raise ValueError(f"checkpoint of another network: {key} is {found}, expected {list(tensor.shape)}")
            tensor.copy_(tensors[key])
        self.show(self.masters)
        self.steps = steps

    def show(self, weights: Mapping[str, Tensor]) -> None:
        """Round these weights into the network; moments and masters stay as they are."""
        for name, parameter in self.parameters.items():
            parameter.data.copy_(weights[name])


class _Group:
    """The tensors of parameters that are updated together."""

    def __init__(self, names: list[str], optimizer: Optimizer) -> None:
        self.names = names
        self.is_muon = names[0] in optimizer.muon
        self.parameters: list[Tensor] = [optimizer.parameters[name] for name in names]
        self.masters = [optimizer.masters[name] for name in names]
        self.first = [optimizer.first[name] for name in names]
        self.second = [] if self.is_muon else [optimizer.second[name] for name in names]


def _weights_of(network: CausalLM, kind: type | UnionType) -> set[str]:
    """The names of the weights of all modules of that kind in the blocks."""
    return {f"blocks.{name}.weight" for name, module in network.blocks.named_modules() if isinstance(module, kind)}

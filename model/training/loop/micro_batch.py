"""Forward and backward of one micro-batch: its losses and its random choices.

Shapes: T tokens, B rows, L positions, E experts.
"""

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from model.batch import PaddedBatch
from model.layers.router import Router, Routing
from model.network import CausalLM
from model.training.data.collate import TrainingBatch
from model.training.loop import losses
from model.training.loop.replica import Replica
from model.training.packed_batch import PackedBatch
from model.training.recipe import Recipe


@dataclass(frozen=True, slots=True, eq=False)
class MicroReport:
    """Result of one micro-batch: losses, tokens, and the load of each expert by layer.

    The losses are tensors, because reading a number waits for the GPU.
    """

    loss: Tensor
    balance: Tensor
    tokens: int
    load: list[Tensor]


def batch_loss(
    network: CausalLM,
    batch: TrainingBatch,
    weights_T: Tensor,
    device: str,
    num_experts_per_token: Mapping[int, int] | None = None,
) -> tuple[Tensor, list[Routing | None]]:
    """The cross-entropy of a batch under these weights, in nats, and the routing of each layer.

    `num_experts_per_token` by layer; layers that are not in it use the number of their config.
    """
    hidden_TD, routings = network(_rows(batch, device, num_experts_per_token or {}))
    targets_T = batch.targets_BL.flatten().to(device)
    return losses.cross_entropy(hidden_TD, network.embedding.weight, targets_T, weights_T.to(device)), routings


def _rows(batch: TrainingBatch, device: str, num_experts_per_token: Mapping[int, int]) -> PaddedBatch:
    ids_BL = batch.token_ids_BL.to(device)
    if batch.positions_BL is None:
        return PaddedBatch(ids_BL, num_experts_per_token)
    return PackedBatch(ids_BL, num_experts_per_token, positions_BL=batch.positions_BL.to(device))


class MicroStep:
    """Forward and backward of one micro-batch by a recipe.

    Randomness depends only on the recipe's seed and on `at`, a string such as "step/micro-batch".
    """

    def __init__(self, recipe: Recipe, device: str) -> None:
        self._recipe, self._device = recipe, device

    def run(self, replica: Replica, batch: TrainingBatch, at: str, last_load: list[Tensor]) -> MicroReport:
        """Add a micro-batch's gradients to the replica's. `last_load`: each layer's of the last step, int64 [E]."""
        generator = self._generator(at)
        weights_T = losses.sample_weights(batch.weights_BL.flatten(), generator)
        ids_BL = losses.add_noise(batch.token_ids_BL, batch.noise_BL, generator)
        loss, routings = batch_loss(
            replica.network,
            replace(batch, token_ids_BL=ids_BL),
            weights_T,
            self._device,
            self._draw_k(replica.network.num_experts, at),
        )
        real_T = batch.real_BL.flatten().to(self._device)
        used = [routing for routing in routings if routing is not None]
        loads = [losses.load(routing, real_T) for routing in used]
        balance = loss.new_zeros(())
        for layer, (router, routing) in enumerate(zip(replica.routers, used, strict=True)):
            balance = balance + self._router_losses(router, routing, real_T, last_load[layer] + loads[layer])
        (loss + balance).backward()
        return MicroReport(loss.detach(), balance.detach(), int(batch.real_BL.sum()), loads)

    def _draw_k(self, moe_layers: Iterable[int], at: str) -> dict[int, int]:
        """A random number of experts per token for each of the layers; empty without `random_k`."""
        if self._recipe.random_k is None:
            return {}
        draw = random.Random(f"{self._recipe.seed}/{at}")
        choices, weights = zip(*self._recipe.random_k.items(), strict=True)
        return {layer: draw.choices(choices, weights)[0] for layer in moe_layers}

    def _generator(self, at: str) -> torch.Generator:
        """The generator that samples prompt tokens and adds noise."""
        return torch.Generator().manual_seed(random.Random(f"{self._recipe.seed}/{at}/weights").getrandbits(63))

    def _router_losses(self, router: Router, routing: Routing, real_T: Tensor, load_E: Tensor) -> Tensor:
        """Regularization of one router. `load_E` counts the last step and this micro-batch."""
        loss = self._recipe.z_weight * losses.z_loss(routing, real_T) + router.regularize(routing, real_T)
        if router.needs_balance_loss:
            share_E = load_E / load_E.sum().clamp(min=1)
            loss = loss + self._recipe.balance_weight * losses.balance_loss(routing, real_T, share_E)
        return loss

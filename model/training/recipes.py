"""Training runs as functions that return a frozen recipe: a run is a name, not a heap of options."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from model.config import ModelConfig, hybrid_config
from model.training.batches import LossWeights, Noise
from model.training.mixture import Mixture, decay_mixture, further_mixture, stable_mixture, world_mixture
from model.training.optimizer import OptimizerConfig, WeightDecay


@dataclass(frozen=True, slots=True)
class Phase:
    """What is read in one part of a run, and what counts there."""

    mixture: Mixture
    weights: LossWeights
    noise: Noise = field(default_factory=Noise)


@dataclass(frozen=True, slots=True)
class Recipe:
    """One training run, whole: the same recipe, data and seed give the same weights.

    The learning rate warms up, stays, and in the last `decay_share` of the tokens falls to zero as 1 - sqrt. Each
    routed layer draws its number of experts per micro-batch from `random_k` ({k: probability}), so that k can be
    chosen when serving; None keeps the configured number. With `ema_decay` the exponential moving average of the
    weights is what is validated and exported: it is usable at any step, before the learning rate has fallen.
    """

    model: ModelConfig
    tokens: int
    stable: Phase
    decay: Phase
    micro_batch_tokens: int = 4096
    micro_batches: int = 4
    warmup_steps: int = 60
    decay_share: float = 0.3
    balance_weight: float = 1e-2
    z_weight: float = 1e-3
    random_k: dict[int, float] | None = None
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    ema_decay: float | None = None
    dtype: str = "bfloat16"
    seed: int = 1


def bundled() -> Recipe:
    """The model that ships: size S, 18 million parameters, 7 million of them active per token."""
    return Recipe(
        model=hybrid_config(),
        tokens=110_000_000,
        stable=Phase(stable_mixture(), LossWeights(prompt=0.3)),
        decay=Phase(decay_mixture(), LossWeights(prompt=0.05)),
        decay_share=0.25,
        random_k={1: 0.25, 2: 0.5, 3: 0.25},
    )


def bundled_further() -> Recipe:
    """A second run for the weights of `bundled`: more labels, noise, a gentler rate. Needs --start-from."""
    mixture, noise = further_mixture(), Noise((("analyze/*", 0.08), ("generate/tinystories-en", 0.15)))
    return replace(
        bundled(),
        stable=Phase(mixture, LossWeights(prompt=0.2, label=16.0), noise),
        decay=Phase(mixture, LossWeights(prompt=0.05, label=16.0), noise),
        decay_share=0.18,
        optimizer=OptimizerConfig(muon_lr=0.012, embedding_lr=2e-3, router_lr=6e-4, scalar_lr=1.2e-3),
        seed=2,
    )


def bundled_chat() -> Recipe:
    """A run for the weights that ship: facts, tasks and small talk of one persona. Needs --start-from."""
    noise = Noise((("analyze/*", 0.08), ("generate/tinystories-en", 0.15)))
    return replace(
        bundled(),
        tokens=115_000_000,
        stable=Phase(world_mixture(chat=0.55), LossWeights(prompt=0.1, label=16.0), noise),
        decay=Phase(world_mixture(chat=0.60), LossWeights(prompt=0.05, label=16.0), noise),
        decay_share=0.07,
        micro_batches=2,
        optimizer=OptimizerConfig(
            muon_lr=0.012, embedding_lr=2e-3, router_lr=6e-4, scalar_lr=1.2e-3,
            weight_decay=WeightDecay(0.1, cautious=True, scheduled=True),
        ),
        ema_decay=0.99,
        seed=3,
    )  # fmt: skip


def tiny() -> Recipe:
    """A model of under a million parameters for two minutes on a laptop and a few hundred lines of text."""
    model = hybrid_config(
        hidden_size=128,
        num_layers=4,
        num_heads=2,
        num_kv_heads=1,
        num_experts=4,
        expert_width=64,
        shared_width=64,
        vocab_size=1024,
        max_positions=1024,
    )
    mixture = Phase(stable_mixture(), LossWeights(prompt=1.0))
    return Recipe(
        model=model, tokens=400_000, stable=mixture, decay=mixture, micro_batch_tokens=1024, warmup_steps=20,
        micro_batches=2,
    )  # fmt: skip


RECIPES: dict[str, Callable[[], Recipe]] = {
    "bundled": bundled,
    "bundled-further": bundled_further,
    "bundled-chat": bundled_chat,
    "tiny": tiny,
}

"""The recipes by name: the model that ships, run after run, and one that takes two minutes."""

import tomllib
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

from model.config import hybrid_config
from model.training.data.collate import LossWeights, Noise
from model.training.data.mixture import Mixture, MixturePart
from model.training.optimizer import OptimizerConfig, WeightDecay
from model.training.recipe import Phase, Recipe

MIXTURES_FILE = Path(__file__).with_name("mixtures.toml")


@cache
def mixture(name: str) -> Mixture:
    """A mixture of mixtures.toml."""
    file = tomllib.loads(MIXTURES_FILE.read_text(encoding="utf-8"))
    chosen = file["mixtures"][name]
    parts = (MixturePart(part, share, tuple(file["parts"][part])) for part, share in chosen["shares"].items())
    factors = (factor for group in chosen["factors"] for factor in file["factors"][group].items())
    return Mixture(tuple(parts), tuple(factors))


def bundled() -> Recipe:
    """The model that ships: size S, 18 million parameters, 7 million of them active per token."""
    return Recipe(
        model=hybrid_config(),
        tokens=110_000_000,
        stable=Phase(mixture("stable"), LossWeights(prompt=0.3)),
        decay=Phase(mixture("decay"), LossWeights(prompt=0.05)),
        decay_share=0.25,
        random_k={1: 0.25, 2: 0.5, 3: 0.25},
    )


def bundled_further() -> Recipe:
    """A second run for the weights of `bundled`: more labels, noise, a lower learning rate. Needs --start-from."""
    noise = Noise((("analyze/*", 0.08), ("generate/tinystories-en", 0.15)))
    return replace(
        bundled(),
        stable=Phase(mixture("further"), LossWeights(prompt=0.2, label=16.0), noise),
        decay=Phase(mixture("further"), LossWeights(prompt=0.05, label=16.0), noise),
        decay_share=0.18,
        optimizer=OptimizerConfig(muon_lr=0.012, embedding_lr=2e-3, router_lr=6e-4, scalar_lr=1.2e-3),
        seed=2,
    )


def bundled_chat() -> Recipe:
    """A run for the weights of `bundled-further`: facts, tasks and small talk of one persona. Needs --start-from.

    Three minutes on a large GPU. Nearly half of its tokens are read while the rate falls.
    """
    further = bundled_further()
    return replace(
        further,
        tokens=240_300_000,
        stable=replace(further.stable, mixture=mixture("everyday"), weights=LossWeights(prompt=0.1, label=16.0)),
        decay=replace(further.decay, mixture=mixture("everyday-decay")),
        decay_share=0.274,
        micro_batch_tokens=98_304,
        micro_batches=1,
        warmup_steps=40,
        optimizer=OptimizerConfig(
            muon_lr=0.015,
            embedding_lr=2.5e-3,
            router_lr=8e-4,
            scalar_lr=1.5e-3,
            weight_decay=WeightDecay(0.1, cautious=True, scheduled=True),
        ),
        ema_decay=0.995,
        seed=4,
        packed=True,
    )


def bundled_longer() -> Recipe:
    """A run for the weights of `bundled-chat`, three times as long, with more phrasings. Needs --start-from.

    Twelve minutes on a large GPU.
    """
    chat = bundled_chat()
    return replace(
        chat,
        tokens=713_700_000,
        stable=replace(chat.stable, mixture=mixture("longer")),
        decay=replace(chat.decay, mixture=mixture("longer-decay")),
        decay_share=0.318,
        seed=5,
    )


def bundled_wider() -> Recipe:
    """A run for the weights of `bundled-longer`, with four times as many topics of small talk. Needs --start-from.

    Six minutes on a large GPU.
    """
    longer = bundled_longer()
    return replace(
        longer,
        tokens=917_100_000,
        stable=replace(longer.stable, mixture=mixture("wider")),
        decay=replace(longer.decay, mixture=mixture("wider-decay")),
        decay_share=0.155,
        seed=6,
    )


def bundled_polish() -> Recipe:
    """A short run for the weights of `bundled-wider`, whose rate falls from its beginning. Needs --start-from.

    50 minutes on two cores. The weights that ship are the mean of its own and, counted twice, those of
    `bundled-longer`.
    """
    wider = bundled_wider()
    phase = replace(wider.decay, mixture=mixture("polish"))
    return replace(
        wider,
        tokens=923_100_000,
        stable=phase,
        decay=phase,
        decay_share=0.0065,
        micro_batch_tokens=8192,
        micro_batches=2,
        warmup_steps=20,
        optimizer=wider.optimizer.scaled(0.4),
        ema_decay=0.99,
        seed=11,
        packed=False,
        dtype="float32",
    )


def bundled_taught() -> Recipe:
    """A short run for the weights before it, with stories and labelled texts of a teacher. Needs --start-from.

    An hour on two cores, and the teacher's files: see docs/training.md.
    """
    polish = bundled_polish()
    phase = replace(polish.decay, mixture=mixture("taught"))
    return replace(
        polish,
        tokens=935_100_000,
        stable=phase,
        decay=phase,
        decay_share=0.01027,
        micro_batch_tokens=4096,
        seed=12,
        dtype="bfloat16",
    )


def bundled_talk() -> Recipe:
    """A short run for the weights before it: chat again, and sentences about anybody. Needs --start-from.

    An hour on two cores, the teacher's files, and the sentences of anybody.py: see docs/training.md.
    """
    taught = bundled_taught()
    noise = Noise((*taught.decay.noise.chances, ("chat/more-smalltalk-*", 0.06)))
    phase = replace(taught.decay, mixture=mixture("talk"), noise=noise)
    return replace(taught, tokens=947_600_000, stable=phase, decay=phase, decay_share=0.0106, seed=14)


def bundled_names() -> Recipe:
    """A short run for the weights before it at half its rates, for persona, instructions, Chinese. Needs --start-from.

    25 minutes on two cores, and the data of `bundled_talk`.
    """
    return _another(bundled_talk(), "names", 952_600_000, decay_share=0.0056, rates=0.5, seed=16)


def bundled_smalltalk() -> Recipe:
    """A run like `bundled_names`, from its end on, for small talk and requests. Needs --start-from."""
    return _another(bundled_names(), "smalltalk", 957_600_000, decay_share=0.0056, seed=17)


def bundled_spaces() -> Recipe:
    """A run of seven minutes at half the rates of `bundled_smalltalk`, for the name in Chinese. Needs --start-from."""
    return _another(bundled_smalltalk(), "spaces", 959_100_000, decay_share=0.0017, rates=0.5, seed=18)


def bundled_medicine() -> Recipe:
    """A run of ten minutes at the rates of `bundled_spaces`, for refusals of medical advice. Needs --start-from."""
    return _another(bundled_spaces(), "medicine", 961_300_000, decay_share=0.0025, seed=19)


def bundled_health() -> Recipe:
    """A run of 17 minutes at the rates of `bundled_names`, for medicine, illness and jobs. Needs --start-from."""
    return _another(bundled_names(), "health", 965_300_000, decay_share=0.0042, seed=22)


def _another(
    like: Recipe, mixture_name: str, tokens: int, *, decay_share: float, seed: int, rates: float = 1
) -> Recipe:
    """A short run like another, with another mixture from beginning to end, at `rates` of its learning rates."""
    phase = replace(like.decay, mixture=mixture(mixture_name))
    optimizer = like.optimizer.scaled(rates)
    return replace(
        like, tokens=tokens, stable=phase, decay=phase, decay_share=decay_share, optimizer=optimizer, seed=seed
    )


def bundled_larger() -> Recipe:
    """A run for the weights that ship, with twice as many experts and the teacher's texts. Needs --start-from.

    About eight minutes on a large GPU, by the speed of those before it: it has not been run to its end.
    """
    wider = bundled_wider()
    return replace(
        wider,
        model=hybrid_config(num_experts=32),
        tokens=1_260_000_000,
        stable=replace(wider.stable, mixture=mixture("larger")),
        decay=replace(wider.decay, mixture=mixture("larger-decay")),
        decay_share=0.16,
        seed=13,
    )


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
    phase = Phase(mixture("stable"), LossWeights(prompt=1.0))
    return Recipe(
        model=model, tokens=400_000, stable=phase, decay=phase, micro_batch_tokens=1024, warmup_steps=20,
        micro_batches=2, dtype="float32",  # few laptops have fast products of bfloat16
    )  # fmt: skip


RECIPES: dict[str, Callable[[], Recipe]] = {
    "bundled": bundled,
    "bundled-further": bundled_further,
    "bundled-chat": bundled_chat,
    "bundled-longer": bundled_longer,
    "bundled-wider": bundled_wider,
    "bundled-polish": bundled_polish,
    "bundled-taught": bundled_taught,
    "bundled-talk": bundled_talk,
    "bundled-names": bundled_names,
    "bundled-smalltalk": bundled_smalltalk,
    "bundled-spaces": bundled_spaces,
    "bundled-medicine": bundled_medicine,
    "bundled-health": bundled_health,
    "bundled-larger": bundled_larger,
    "tiny": tiny,
}


def recipe_named(name: str, tokens: int | None) -> Recipe:
    """A recipe by its name, with its own or another number of tokens. ValueError lists the names."""
    if name not in RECIPES:
        raise ValueError(f"there is no recipe {name!r}; there are: {', '.join(RECIPES)}")
    recipe = RECIPES[name]()
    return recipe if tokens is None else replace(recipe, tokens=tokens)

"""One training run as a frozen value: the network, how much it reads of what, and how the weights are updated."""

from dataclasses import dataclass, field

from model.config import ModelConfig
from model.training.data.collate import LossWeights, Noise
from model.training.data.mixture import Mixture
from model.training.optimizer import OptimizerConfig


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
    `packed` rows hold several examples: a GPU wants batches of one shape. On a CPU rows of one example are faster.
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
    packed: bool = False
    seed: int = 1

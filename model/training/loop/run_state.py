"""How far a run is, and the phase and learning rate of its recipe at that point."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from model.training.recipe import Recipe


@dataclass(frozen=True, slots=True)
class RunState:
    """How far a run is, counted from the beginning of the first run that it descends from."""

    step: int = 0
    tokens: int = 0
    inherited_tokens: int = 0  # by the runs this one started from
    cold_step: int = 0  # the step at which the optimizer moments were zero

    @classmethod
    def from_checkpoint(cls, state: Mapping[str, Any]) -> "RunState":
        """Read the state of a checkpoint. Old checkpoints lack the last two fields."""
        return cls(state["step"], state["tokens"], state.get("inherited_tokens", 0), state.get("cold_step", 0))

    @property
    def warm_steps(self) -> int:
        """Steps since the optimizer moments were zero."""
        return self.step - self.cold_step

    def after_step(self, tokens: int) -> "RunState":
        """The state after one more step, which read `tokens` tokens."""
        return replace(self, step=self.step + 1, tokens=self.tokens + tokens)


def phase_of(recipe: Recipe, state: RunState) -> str:
    """The name of the phase whose data is read now."""
    return "decay" if state.tokens >= _decay_start(recipe) else "stable"


def learning_rate(recipe: Recipe, state: RunState) -> float:
    """Share of the peak rates: warm-up, plateau, then 1 - sqrt down to zero at the last token."""
    start = _decay_start(recipe)
    warm = min(1.0, (state.warm_steps + 1) / recipe.warmup_steps)
    progress = max(0.0, (state.tokens - start) / (recipe.tokens - start))
    return float(warm * (1 - min(progress, 1.0) ** 0.5))


def _decay_start(recipe: Recipe) -> float:
    return recipe.tokens * (1 - recipe.decay_share)

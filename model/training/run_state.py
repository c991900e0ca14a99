"""How far a run is, and what its recipe asks for there."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from model.training.recipes import Recipe


@dataclass(frozen=True, slots=True)
class RunState:
    """How far a run is, counted from the beginning of the first run that it descends from."""

    step: int = 0
    tokens: int = 0
    inherited_tokens: int = 0  # of the runs this one started from
    cold_step: int = 0  # where the moments were new

    @classmethod
    def saved_in(cls, state: Mapping[str, Any]) -> "RunState":
        """What a checkpoint says. Those from before a run could start from another lack the last two."""
        return cls(state["step"], state["tokens"], state.get("inherited_tokens", 0), state.get("cold_step", 0))

    @property
    def warm_steps(self) -> int:
        """Steps since the moments were new."""
        return self.step - self.cold_step

    def after_step(self, tokens: int) -> "RunState":
        """One step further, in which so many tokens were seen."""
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

"""The mixture: which share of the training tokens comes from which source."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase


@dataclass(frozen=True, slots=True)
class MixturePart:
    """A share of all tokens, for the sources whose name matches one of the patterns (such as "translate/*")."""

    name: str
    share: float
    patterns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Mixture:
    """Parts share the tokens; inside a part, a source weighs the square root of its tokens times its factor.

    `factors` are (pattern, factor) pairs; the first pattern that matches counts, and 1 where none does.
    """

    parts: tuple[MixturePart, ...]
    factors: tuple[tuple[str, float], ...] = ()

    def source_shares(self, sizes: Mapping[str, int]) -> dict[str, float]:
        """Return each source's share of the tokens, given its size in tokens; the shares sum to 1.

        A part without a source leaves its share to the others. ValueError where no part has one.
        """
        weights = {part: self._weights(part, sizes) for part in self.parts}
        total = sum(part.share for part, of_part in weights.items() if of_part)
        if total == 0:
            raise ValueError(f"no source fits the mixture: have {sorted(sizes)}, parts are {self.parts}")
        return {
            name: part.share / total * weight / sum(of_part.values())
            for part, of_part in weights.items()
            for name, weight in of_part.items()
        }

    def _weights(self, part: MixturePart, sizes: Mapping[str, int]) -> dict[str, float]:
        names = sorted(name for name in sizes if any(fnmatchcase(name, pattern) for pattern in part.patterns))
        return {name: math.sqrt(sizes[name]) * self._factor(name) for name in names}

    def _factor(self, name: str) -> float:
        return value_of(name, self.factors, default=1.0)


def value_of(source: str, values: Sequence[tuple[str, float]], *, default: float) -> float:
    """The value of the first pattern that the source's name matches."""
    return next((value for pattern, value in values if fnmatchcase(source, pattern)), default)

"""How busy the experts of a model usually are: routing_baseline.json beside its weights, from `routelm routing`."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from model.files import Directory, read_object

BASELINE_NAME = "routing_baseline.json"


@dataclass(frozen=True, slots=True)
class RoutingBaseline:
    """Each expert's share of the choices in a layer, by layer, counted over so many tokens."""

    num_tokens: int
    shares: Mapping[int, tuple[float, ...]]

    @classmethod
    def load(cls, directory: Directory) -> "RoutingBaseline | None":
        """Read the baseline of a checkpoint; None if there is none. ValueError if it is damaged."""
        path = directory / BASELINE_NAME
        if not path.is_file():
            return None
        try:
            found = read_object(path)
            shares = {int(layer): tuple(map(_share, share)) for layer, share in found["shares"].items()}
            return cls(int(found["num_tokens"]), shares)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise ValueError(
                f"{path} is not what routelm routing writes: {error!r}; delete it or write it again"
            ) from None

    def save(self, directory: Path) -> None:
        rounded = {str(layer): [round(value, 6) for value in share] for layer, share in self.shares.items()}
        text = json.dumps({"num_tokens": self.num_tokens, "shares": rounded})
        (directory / BASELINE_NAME).write_text(text + "\n", encoding="utf-8")

    def drift(self, layer: int, share: Sequence[float]) -> float | None:
        """The Jensen-Shannon divergence of the shares from the baseline's, 0 to 1 bit; None for other experts."""
        usual = self.shares.get(layer)
        if usual is None or len(usual) != len(share) or not any(share):
            return None
        return sum(_excess(p, q) + _excess(q, p) for p, q in zip(usual, share, strict=True)) / 2


def _share(value: float) -> float:
    if not 0 <= value <= 1:  # NaN too
        raise ValueError(f"{value} is not a share")
    return float(value)


def _excess(p: float, q: float) -> float:
    return p * math.log2(2 * p / (p + q)) if p else 0.0

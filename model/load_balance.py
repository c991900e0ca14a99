"""How evenly the experts of a layer are used: the measures that the server, reports and training have in common.

A load is how many tokens each expert of one layer got, or (token, expert) pairs, which is the same. Shapes: E experts.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

IDLE_LOAD = 0.1  # of the mean load: an expert that gets less is idle

Load = Sequence[float] | NDArray[np.generic]


def load_shares(load_E: Load) -> list[float]:
    """Each expert's share of the whole load, which sum to 1; zeros without any load."""
    counts_E = np.asarray(load_E, dtype=np.float64)
    shares: list[float] = (counts_E / (counts_E.sum() or 1.0)).tolist()
    return shares


def entropy(shares_E: Load) -> float:
    """Shannon entropy of shares, in bits: log2(E) when even, 0 for a single expert and without any load."""
    values_E = np.asarray(shares_E, dtype=np.float64)
    used = values_E[values_E > 0]
    return abs(float((used * np.log2(used)).sum()))


def max_violation(load_E: Load) -> float:
    """MaxVio (arXiv 2408.15664): (largest load - mean load) / mean load; 0 when even, and without any load."""
    counts_E = np.asarray(load_E, dtype=np.float64)
    mean = float(counts_E.mean())
    return (float(counts_E.max()) - mean) / mean if mean else 0.0


def idle_experts(load_E: Load) -> list[int]:
    """The experts that get less than IDLE_LOAD of the mean load; none without any load."""
    counts_E = np.asarray(load_E, dtype=np.float64)
    found: list[int] = np.flatnonzero(counts_E < IDLE_LOAD * counts_E.mean()).tolist()
    return found

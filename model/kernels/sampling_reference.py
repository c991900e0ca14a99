"""The definition of sampling, in numpy, in which drawing from a row costs less than in PyTorch calls.

Shapes: R rows, V vocabulary.
"""

import math
from collections.abc import Sequence as Rows

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from model.kernels.types import RowSampling

LAST_STEP = np.float32(1 - 2.0**-24)  # the largest float32 below 1
HALF_STEP = 2.0**-25  # half the distance between two outputs of the generator: keeps the noise finite
MASK_64 = 2**64 - 1


def sample(scores_RV: Tensor, rows: Rows[RowSampling]) -> Tensor:
    """One token from each row of scores, chosen by its own parameters: int64 [R].

    The highest score, the first of equals, where the temperature is 0. Otherwise a draw from the softmax of the scores
    over the temperature, among the tokens that the filters keep. Any token where the highest score is no number.
    """
    tokens_R = scores_RV.argmax(-1)
    has_highest = scores_RV.amax(-1).isfinite().tolist()
    for row, how in enumerate(rows):
        if how.temperature and has_highest[row]:
            tokens_R[row] = draw(scores_RV[row].numpy(force=True), how)
    return tokens_R


def draw(scores_V: NDArray[np.float32], how: RowSampling) -> int:
    """A token from one row: the highest score after temperature, filters and Gumbel noise."""
    scores_V = (scores_V - scores_V.max()) / np.float32(how.temperature)
    floor = filter_threshold(scores_V, how)
    if floor > -np.inf:
        scores_V[scores_V < floor] = -np.inf
    return int((scores_V + gumbel_noise(how.seed, how.position, len(scores_V))).argmax())


def filter_threshold(scores_V: NDArray[np.float32], how: RowSampling) -> float:
    """The lowest score that the filters keep; the highest score is 0. Equal scores are all kept or all dropped.

    top_k keeps the k highest scores, top_p the likeliest of those until their probabilities sum to it, min_p the tokens
    that are at least `min_p` times as likely as the likeliest.
    """
    floor = math.log(how.min_p) if how.min_p else -math.inf
    if not how.top_k and how.top_p >= 1:
        return floor
    highest = np.sort(scores_V)[::-1][: how.top_k or None]
    if how.top_p < 1:
        reached = np.exp(highest).cumsum(dtype=np.float64)
        highest = highest[: reached.searchsorted(how.top_p * reached[-1]) + 1]
    return max(floor, float(highest[-1]))


def gumbel_noise(seed: int, position: int, size: int) -> NDArray[np.float32]:
    """Noise for the token at `position`: argmax(score + noise) is a draw from softmax(score) (the Gumbel-max trick).

    The generator is counter-based: the seed is its key, the position the high word of its counter.
    """
    generator = np.random.Generator(np.random.Philox(key=seed & MASK_64, counter=[0, 0, 0, position]))
    return gumbel(generator.random(size, dtype=np.float32))


def gumbel(uniform: NDArray[np.float32]) -> NDArray[np.float32]:
    """-log(-log u), in place, for u in [0, 1) in steps of 2^-24; both ends are moved inwards to keep it finite."""
    uniform += HALF_STEP
    np.minimum(uniform, LAST_STEP, out=uniform)  # adding half a step rounds the largest output up to 1
    for _ in range(2):
        np.log(uniform, out=uniform)
        np.negative(uniform, out=uniform)
    return uniform

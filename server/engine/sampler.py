"""From logits to tokens. The result of a row depends on that row alone and never on the batch, bit by bit.

Greedy rows and log-probabilities are computed for the whole batch: comparisons are exact, and torch's log_softmax
computes every row in the same way. Random rows are drawn one by one in numpy, which costs less than torch calls.

Shapes: R rows, V vocabulary, P scored prompt positions.
"""

import math
from collections.abc import Sequence as Rows

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model import kernels
from server.engine.logits_processors import token_index
from server.engine.sequence import Sequence
from server.engine.step import SampledTokens
from server.engine.types import SamplingParams, TokenLogprobs

GREEDY_BELOW = 1e-5  # below this temperature only the highest score has a chance
LAST_STEP = np.float32(1 - 2.0**-24)  # the largest float32 below 1
HALF_STEP = 2.0**-25  # half the distance between two outputs of the generator: keeps the noise finite
MASK_64 = 2**64 - 1


@torch.inference_mode()
def sample(logits_RV: Tensor, sequences: Rows[Sequence]) -> SampledTokens:
    """One token per row with the parameters of its sequence; `logits_RV` are float32, one row per sequence."""
    if not sequences:
        return SampledTokens(())
    finite = torch.isfinite(logits_RV.sum(-1)).tolist()
    token_ids: list[int] = kernels.argmax(logits_RV).tolist()
    for row, sequence in enumerate(sequences):
        scores_V = process_logits(logits_RV[row], sequence)
        if finite[row] and sequence.sampling.temperature >= GREEDY_BELOW:
            token_ids[row] = draw(scores_V.numpy(force=True), sequence.sampling, sequence.seed, len(sequence.tokens))
        elif sequence.logits_processors:
            token_ids[row] = int(kernels.argmax(scores_V[None]))
    return SampledTokens(
        [(token_id,) for token_id in token_ids],
        _logprobs(logits_RV, token_ids, sequences),
        frozenset(s.request_id for s, ok in zip(sequences, finite, strict=True) if not ok),
    )


def process_logits(logits_V: Tensor, sequence: Sequence) -> Tensor:
    """Logits after a sequence's processors; a copy if it has any, for log-probabilities need the model's own."""
    if not sequence.logits_processors:
        return logits_V
    scores_V = logits_V.clone()
    for processor in sequence.logits_processors:
        processor.apply(scores_V)
    return scores_V


def _logprobs(
    logits_RV: Tensor, token_ids: list[int], sequences: Rows[Sequence]
) -> dict[int, tuple[TokenLogprobs, ...]]:
    asked = [(row, s.sampling.logprobs) for row, s in enumerate(sequences) if s.sampling.logprobs is not None]
    if not asked:
        return {}
    rows = [row for row, _ in asked]
    found = token_logprobs(logits_RV[rows], [token_ids[row] for row in rows], [count for _, count in asked])
    return {row: (entry,) for row, entry in zip(rows, found, strict=True)}


def token_logprobs(logits_PV: Tensor, token_ids: list[int], counts: list[int]) -> list[TokenLogprobs]:
    """For each row the log-probability (natural logarithm) of its token, and of its `counts` likeliest tokens."""
    logprobs_PV = logits_PV.log_softmax(-1)
    chosen = logprobs_PV.gather(1, token_index(token_ids, logits_PV)[:, None]).squeeze(1).tolist()
    most = max(counts)
    values, ids = (x.tolist() for x in logprobs_PV.topk(most, dim=-1))
    return [
        TokenLogprobs(
            token, logprob, tuple(sorted(zip(i[:count], v[:count], strict=True), key=lambda p: (-p[1], p[0])))
        )
        for token, logprob, count, v, i in zip(token_ids, chosen, counts, values, ids, strict=True)
    ]


def draw(scores_V: NDArray[np.float32], sampling: SamplingParams, seed: int, position: int) -> int:
    """Draw a token: the highest score after temperature, filters and Gumbel noise."""
    scores_V = (scores_V - scores_V.max()) / np.float32(sampling.temperature)
    floor = filter_threshold(scores_V, sampling)
    if floor > -np.inf:
        scores_V[scores_V < floor] = -np.inf
    return int((scores_V + gumbel_noise(seed, position, len(scores_V))).argmax())


def filter_threshold(scores_V: NDArray[np.float32], sampling: SamplingParams) -> float:
    """The lowest score that the filters keep; the highest score is 0. Equal scores are all kept or all dropped.

    top_k keeps the k highest scores, top_p the likeliest of those until their probabilities sum to it, min_p the tokens
    that are at least `min_p` times as likely as the likeliest.
    """
    floor = math.log(sampling.min_p) if sampling.min_p else -math.inf
    if not sampling.top_k and sampling.top_p >= 1:
        return floor
    highest = np.sort(scores_V)[::-1][: sampling.top_k or None]
    if sampling.top_p < 1:
        reached = np.exp(highest).cumsum(dtype=np.float64)
        highest = highest[: reached.searchsorted(sampling.top_p * reached[-1]) + 1]
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

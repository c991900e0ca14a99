"""From scores to tokens. A row's result depends on that row alone: never on the batch, bit by bit.

Greedy rows and log-probabilities are computed together: comparisons are exact, and torch's log_softmax treats every row
alike. Random rows are drawn one by one in numpy, which costs less than a torch call for them all.

Shapes: R rows, V vocabulary, P scored prompt positions.
"""

import math
from collections.abc import Iterable
from collections.abc import Sequence as Rows

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model import kernels
from server.engine.sequence import Sequence
from server.engine.step import SampledTokens
from server.engine.types import SamplingParams, TokenLogprobs

GREEDY_BELOW = 1e-5  # temperatures this small leave no chance to any but the highest score
LAST_STEP = np.float32(1 - 2.0**-24)  # the largest float32 below 1
HALF_STEP = 2.0**-25  # between two of the numbers a float32 generator can give: keeps noise finite
MASK_64 = 2**64 - 1


class Sampler:
    """Chooses a token per row, with the parameters of the row's sequence."""

    def __init__(self, eos_token_ids: Iterable[int] = ()) -> None:
        self._eos = frozenset(eos_token_ids)

    @torch.inference_mode()
    def sample(self, logits_RV: Tensor, sequences: Rows[Sequence]) -> SampledTokens:
        """One token per row; `logits_RV` are the model's scores in float32, one row per sequence."""
        if not sequences:
            return SampledTokens([])
        finite = torch.isfinite(logits_RV.sum(-1)).tolist()
        scores_RV = self._adjust(logits_RV, sequences)
        token_ids: list[int] = kernels.highest(scores_RV).tolist()
        for row, sequence in enumerate(sequences):
            if finite[row] and sequence.sampling.temperature >= GREEDY_BELOW:
                token_ids[row] = draw(
                    scores_RV[row].numpy(force=True), sequence.sampling, sequence.seed, len(sequence.tokens)
                )
        return SampledTokens(
            token_ids,
            self._logprobs(logits_RV, token_ids, sequences),
            frozenset(s.request_id for s, ok in zip(sequences, finite, strict=True) if not ok),
        )

    def _adjust(self, logits_RV: Tensor, sequences: Rows[Sequence]) -> Tensor:
        """Scores after penalties, biases and forbidden ends."""
        scores_RV = logits_RV
        for row, sequence in enumerate(sequences):
            if self._is_adjusted(sequence):
                if scores_RV is logits_RV:
                    scores_RV = logits_RV.clone()
                self._adjust_row(scores_RV[row], sequence)
        return scores_RV

    def _is_adjusted(self, sequence: Sequence) -> bool:
        sampling = sequence.sampling
        return (
            sampling.repetition_penalty != 1.0
            or sampling.presence_penalty != 0.0
            or sampling.frequency_penalty != 0.0
            or bool(sampling.logit_bias)
            or sequence.num_output_tokens < sampling.min_tokens
        )

    def _adjust_row(self, scores_V: Tensor, sequence: Sequence) -> None:
        sampling = sequence.sampling
        if sampling.repetition_penalty != 1.0:
            seen = token_ids_tensor(set(sequence.tokens), scores_V)
            old = scores_V[seen]
            penalty = sampling.repetition_penalty
            scores_V[seen] = torch.where(old > 0, old / penalty, old * penalty)
        if sampling.presence_penalty or sampling.frequency_penalty:
            output = token_ids_tensor(sequence.tokens[sequence.prompt_len :], scores_V)
            counts_V = torch.bincount(output, minlength=len(scores_V)).float()
            scores_V -= sampling.frequency_penalty * counts_V
            scores_V -= sampling.presence_penalty * (counts_V > 0)
        if sampling.logit_bias:
            biases = torch.tensor(list(sampling.logit_bias.values()), dtype=scores_V.dtype, device=scores_V.device)
            scores_V[token_ids_tensor(sampling.logit_bias, scores_V)] += biases
        if sequence.num_output_tokens < sampling.min_tokens:
            scores_V[token_ids_tensor(self._eos | sampling.stop_token_ids, scores_V)] = float("-inf")

    def _logprobs(self, logits_RV: Tensor, token_ids: list[int], sequences: Rows[Sequence]) -> dict[int, TokenLogprobs]:
        asked = [(row, s.sampling.logprobs) for row, s in enumerate(sequences) if s.sampling.logprobs is not None]
        if not asked:
            return {}
        rows = [row for row, _ in asked]
        found = token_logprobs(logits_RV[rows], [token_ids[row] for row in rows], [count for _, count in asked])
        return dict(zip(rows, found, strict=True))


def token_ids_tensor(token_ids: Iterable[int], like: Tensor) -> Tensor:
    """Token ids as an index, on the device of the scores."""
    return torch.tensor(list(token_ids), dtype=torch.int64, device=like.device)


def token_logprobs(logits_PV: Tensor, token_ids: list[int], counts: list[int]) -> list[TokenLogprobs]:
    """For each row the log-probability of its token, and of the `counts` likeliest ones. Natural logarithms."""
    logprobs_PV = logits_PV.log_softmax(-1)
    chosen = logprobs_PV.gather(1, token_ids_tensor(token_ids, logits_PV)[:, None]).squeeze(1).tolist()
    most = max(counts)
    values, ids = (x.tolist() for x in logprobs_PV.topk(most, dim=-1))
    return [
        TokenLogprobs(
            token, logprob, tuple(sorted(zip(i[:count], v[:count], strict=True), key=lambda p: (-p[1], p[0])))
        )
        for token, logprob, count, v, i in zip(token_ids, chosen, counts, values, ids, strict=True)
    ]


def draw(scores_V: NDArray[np.float32], sampling: SamplingParams, seed: int, position: int) -> int:
    """A token at random: the highest score after temperature, filters and noise."""
    scores_V = (scores_V - scores_V.max()) / np.float32(sampling.temperature)
    floor = least_kept(scores_V, sampling)
    if floor > -np.inf:
        scores_V[scores_V < floor] = -np.inf
    return int((scores_V + gumbel_noise(seed, position, len(scores_V))).argmax())


def least_kept(scores_V: NDArray[np.float32], sampling: SamplingParams) -> float:
    """The lowest score that the filters leave; the highest is 0. Of equal scores all are kept or none.

    top_k keeps the k highest, top_p the likeliest of those until their sum reaches it, min_p what is at least that part
    as likely as the likeliest.
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
    """Noise for the token at `position`: argmax(score + noise) is a draw from softmax(score).

    A counter-based generator: the seed is its key, the position the high word of its counter.
    """
    generator = np.random.Generator(np.random.Philox(key=seed & MASK_64, counter=[0, 0, 0, position]))
    return gumbel(generator.random(size, dtype=np.float32))


def gumbel(uniform: NDArray[np.float32]) -> NDArray[np.float32]:
    """-log(-log u), in place, for u in [0, 1) in steps of 2^-24; the ends are moved inwards, to keep them finite."""
    uniform += HALF_STEP
    np.minimum(uniform, LAST_STEP, out=uniform)  # adding half a step rounds the last number up to 1
    for _ in range(2):
        np.log(uniform, out=uniform)
        np.negative(uniform, out=uniform)
    return uniform

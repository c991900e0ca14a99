"""From scores to tokens. A row's result depends on that row alone: never on the batch, bit by bit.

What torch computes along a row (softmax, cumsum, topk) or exactly (comparison, subtraction, division) is done for many
rows at once. Functions of single elements, whose last bits may depend on an element's place in a tensor, are computed
row by row; only the noise needs one.

Shapes: R rows, V vocabulary, P scored prompt positions, C candidates.
"""

from collections.abc import Iterable
from collections.abc import Sequence as Rows

import numpy as np
import torch
from torch import Tensor

from server.engine.scheduler import SampledTokens
from server.engine.sequence import Sequence
from server.engine.types import SamplingParams, TokenLogprobs

CANDIDATES = 128  # how many tokens top_p looks at before it sorts the whole vocabulary
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
        noisy = [row for row, sequence in enumerate(sequences) if sequence.sampling.temperature > 0]
        tokens_R = draw(scores_RV, sequences) if len(noisy) == len(sequences) else scores_RV.argmax(-1)
        if 0 < len(noisy) < len(sequences):
            tokens_R[noisy] = draw(scores_RV[noisy], [sequences[row] for row in noisy])
        token_ids: list[int] = tokens_R.tolist()
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
        for token, bias in sampling.logit_bias.items():
            scores_V[token] += bias
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


def draw(scores_RV: Tensor, sequences: Rows[Sequence]) -> Tensor:
    """A token per row, at random: the highest score after temperature, filters and Gumbel noise."""
    params = [sequence.sampling for sequence in sequences]
    temperatures_R = scores_RV.new_tensor([sampling.temperature for sampling in params])
    scores_RV = (scores_RV - scores_RV.amax(-1, keepdim=True)) / temperatures_R[:, None]
    filtered = [row for row, sampling in enumerate(params) if is_filtered(sampling)]
    if filtered:
        scores_RV[filtered] = keep_likely(scores_RV[filtered], [params[row] for row in filtered])
    noise = [gumbel_noise(s.seed, len(s.tokens), scores_RV.shape[1]) for s in sequences]
    return (scores_RV + torch.from_numpy(np.stack(noise)).to(scores_RV.device)).argmax(-1)


def gumbel_noise(seed: int, position: int, size: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """Noise for the token at `position`: argmax(score + noise) is a draw from softmax(score).

    A counter-based generator: the seed is its key, the position the high word of its counter.
    """
    generator = np.random.Generator(np.random.Philox(key=seed & MASK_64, counter=[0, 0, 0, position]))
    noise = generator.random(size, dtype=np.float32)
    noise += HALF_STEP
    for _ in range(2):
        np.log(noise, out=noise)
        np.negative(noise, out=noise)
    return noise


def is_filtered(sampling: SamplingParams) -> bool:
    return sampling.top_k > 0 or sampling.top_p < 1.0 or sampling.min_p > 0.0


def keep_likely(scores_RV: Tensor, params: Rows[SamplingParams]) -> Tensor:
    """Set tokens outside top_k, then outside top_p of what is left, then below min_p, to minus infinity.

    top_p keeps the likeliest tokens until their sum reaches it; min_p is relative to the likeliest token. Tokens as
    likely as the last one kept are kept too, so that no order among equals matters.
    """
    vocabulary = scores_RV.shape[1]
    top_k_R = [min(sampling.top_k, vocabulary) or vocabulary for sampling in params]
    if any(k < vocabulary for k in top_k_R):
        scores_RV = scores_RV.masked_fill(scores_RV < kth_highest(scores_RV, top_k_R), float("-inf"))
    probs_RV = scores_RV.softmax(-1)
    least_R1 = nucleus_floor(probs_RV, [sampling.top_p for sampling in params])
    min_p_R = scores_RV.new_tensor([sampling.min_p for sampling in params])
    least_R1 = torch.maximum(least_R1, probs_RV.amax(-1, keepdim=True) * min_p_R[:, None])
    return scores_RV.masked_fill(probs_RV < least_R1, float("-inf"))


def kth_highest(scores_RV: Tensor, k_R: list[int]) -> Tensor:
    """Each row's k-th highest score [R, 1]; minus infinity where k is the whole vocabulary."""
    vocabulary = scores_RV.shape[1]
    most = max(k for k in k_R if k < vocabulary)
    highest_RC = scores_RV.topk(most, dim=-1).values
    index_R1 = torch.tensor([min(k, most) - 1 for k in k_R], device=scores_RV.device)[:, None]
    unlimited_R1 = torch.tensor([k == vocabulary for k in k_R], device=scores_RV.device)[:, None]
    return highest_RC.gather(1, index_R1).masked_fill(unlimited_R1, float("-inf"))


def nucleus_floor(probs_RV: Tensor, top_p_R: list[float]) -> Tensor:
    """The least probability [R, 1] within the likeliest tokens that together reach top_p; 0 where top_p is 1."""
    floors_R = probs_RV.new_zeros(len(top_p_R))
    rows = [row for row, top_p in enumerate(top_p_R) if top_p < 1.0]
    width = min(CANDIDATES, probs_RV.shape[1])
    while rows:
        sorted_RC = probs_RV[rows].topk(width, dim=-1).values
        reached_RC = sorted_RC.cumsum(-1)
        wanted_R1 = probs_RV.new_tensor([top_p_R[row] for row in rows])[:, None]
        before_RC = reached_RC.roll(1, dims=-1)
        before_RC[:, 0] = 0
        last_R1 = (before_RC < wanted_R1).sum(-1, keepdim=True).clamp(min=1) - 1
        floors_R[rows] = sorted_RC.gather(1, last_R1).squeeze(1)
        enough = (reached_RC[:, -1] >= wanted_R1[:, 0]).tolist()
        rows = [row for row, done in zip(rows, enough, strict=True) if not done]
        if width == probs_RV.shape[1]:
            break
        width = probs_RV.shape[1]
    return floors_R[:, None]

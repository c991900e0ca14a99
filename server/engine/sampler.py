"""From logits to tokens. The result of a row depends on that row alone and never on the batch, bit by bit.

Tokens are chosen by a kernel, row by row; torch's log_softmax computes every row in the same way, too.

Shapes: R rows, V vocabulary, P scored prompt positions.
"""

from collections.abc import Sequence as Rows

import torch
from torch import Tensor

from model import kernels
from model.kernels.types import RowSampling
from server.engine.logits_processors import token_index
from server.engine.sequence import Sequence
from server.engine.step import SampledTokens
from server.engine.types import TokenLogprobs

GREEDY_BELOW = 1e-5  # below this temperature only the highest score has a chance


@torch.inference_mode()
def sample(logits_RV: Tensor, sequences: Rows[Sequence]) -> SampledTokens:
    """One token per row with the parameters of its sequence; `logits_RV` are float32, one row per sequence."""
    if not sequences:
        return SampledTokens(())
    finite = torch.isfinite(logits_RV.sum(-1)).tolist()
    scores_RV = process_logits(logits_RV, sequences)
    token_ids: list[int] = kernels.sample(scores_RV, [_row_sampling(sequence) for sequence in sequences]).tolist()
    return SampledTokens(
        [(token_id,) for token_id in token_ids],
        _logprobs(logits_RV, token_ids, sequences),
        frozenset(s.request_id for s, ok in zip(sequences, finite, strict=True) if not ok),
    )


def _row_sampling(sequence: Sequence) -> RowSampling:
    sampling = sequence.sampling
    temperature = sampling.temperature if sampling.temperature >= GREEDY_BELOW else 0.0
    position = len(sequence.tokens)
    return RowSampling(temperature, sampling.top_k, sampling.top_p, sampling.min_p, sequence.seed, position)


def process_logits(logits_RV: Tensor, sequences: Rows[Sequence]) -> Tensor:
    """Logits after the processors of the sequences; a copy if there are any: log-probabilities need the model's own."""
    if not any(sequence.logits_processors for sequence in sequences):
        return logits_RV
    scores_RV = logits_RV.clone()
    for scores_V, sequence in zip(scores_RV, sequences, strict=True):
        for processor in sequence.logits_processors:
            processor.apply(scores_V)
    return scores_RV


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

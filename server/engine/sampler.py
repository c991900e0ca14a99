"""From logits to tokens. The result of a row depends on that row alone and never on the batch, bit by bit.

Tokens are chosen by a kernel, row by row; torch's log_softmax computes every row in the same way, too.

Shapes: R rows, V vocabulary, P scored prompt positions.
"""

import math
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
NOTHING_TO_DRAW = RowSampling(0.0, 0, 1.0, 0.0, 0, 0)  # the cheapest, for rows of which no token is wanted


@torch.inference_mode()
def sample(logits_RV: Tensor, sequences: Rows[Sequence], rows: Rows[int] | None = None) -> SampledTokens:
    """One token for each sequence, with its parameters, from its row of the float32 logits.

    `rows` are those of the sequences; None: all rows, in their order. Nothing is chosen from the other rows, and no row
    is copied, because copying the logits of a large batch takes a part of a millisecond or more. So logits processors
    change `logits_RV` in place.
    """
    if not sequences:
        return SampledTokens(())
    rows = range(len(sequences)) if rows is None else rows
    finite = [math.isfinite(total) for total in logits_RV.sum(-1).tolist()]
    asked = [number for number, sequence in enumerate(sequences) if sequence.sampling.logprobs is not None]
    # A copy, if anything is asked: log-probabilities are those of the model.
    asked_logits_PV = logits_RV[[rows[number] for number in asked]] if asked else logits_RV[:0]
    process_logits(logits_RV, sequences, rows)
    sampling = [NOTHING_TO_DRAW] * len(logits_RV)
    for row, sequence in zip(rows, sequences, strict=True):
        sampling[row] = _row_sampling(sequence)
    chosen = kernels.sample(logits_RV, sampling).tolist()
    token_ids: list[int] = [chosen[row] for row in rows]
    return SampledTokens(
        [(token_id,) for token_id in token_ids],
        _logprobs(asked_logits_PV, asked, token_ids, sequences),
        frozenset(sequence.request_id for row, sequence in zip(rows, sequences, strict=True) if not finite[row]),
    )


def _row_sampling(sequence: Sequence) -> RowSampling:
    sampling = sequence.sampling
    temperature = sampling.temperature if sampling.temperature >= GREEDY_BELOW else 0.0
    position = len(sequence.tokens)
    return RowSampling(temperature, sampling.top_k, sampling.top_p, sampling.min_p, sequence.seed, position)


def process_logits(logits_RV: Tensor, sequences: Rows[Sequence], rows: Rows[int]) -> None:
    """Apply the logits processors of the sequences to their rows, in place."""
    for row, sequence in zip(rows, sequences, strict=True):
        for processor in sequence.logits_processors:
            processor.apply(logits_RV[row])


def _logprobs(
    logits_PV: Tensor, rows: list[int], token_ids: list[int], sequences: Rows[Sequence]
) -> dict[int, tuple[TokenLogprobs, ...]]:
    """Of the rows that ask for them, whose logits are `logits_PV`."""
    if not rows:
        return {}
    counts = [sequences[row].sampling.logprobs or 0 for row in rows]
    found = token_logprobs(logits_PV, [token_ids[row] for row in rows], counts)
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

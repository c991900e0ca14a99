"""A runner without a network. Its cache holds, instead of numbers, the tokens on which each number would depend.

A wrong block, a stale row, a copy too late or a write into shared memory shows at once, and thousands of schedules run
in a second.
"""

from collections.abc import Callable
from collections.abc import Sequence as Tokens

import torch

from server.engine.cache.layout import CacheLayout
from server.engine.cache.prefix_cache import CopyBlock, CopyRow, ZeroRow
from server.engine.scheduler import Scheduler
from server.engine.sequence import Sequence
from server.engine.step import ModelOutput, SampledTokens, ScheduledBatch
from server.engine.types import TokenLogprobs

VOCAB = 6
UNKNOWN = ("never written",)
NO_LOGITS = torch.empty(0, VOCAB)

Prefix = tuple[int | str, ...]


def next_token(prefix: Prefix) -> int:
    """The simulated model: a function of all tokens before."""
    return hash((len(prefix), *(int(token) for token in prefix))) % VOCAB


def likeliest(prefix: Prefix, count: int) -> tuple[tuple[int, float], ...]:
    """Made-up log-probabilities of the next tokens, best first: a function of all tokens before."""
    scores = [(token, -(hash((token, *map(int, prefix))) % 997) / 100) for token in range(VOCAB)]
    return tuple(sorted(scores, key=lambda pair: (-pair[1], pair[0]))[:count])


def simulated_decode(prompt: Tokens[int], max_tokens: int, eos: frozenset[int] = frozenset()) -> tuple[int, ...]:
    """The tokens that a request must get."""
    tokens = list(prompt)
    while len(tokens) < len(prompt) + max_tokens:
        tokens.append(next_token(tuple(tokens)))
        if tokens[-1] in eos:
            break
    return tuple(tokens[len(prompt) :])


class SimulatedRunner:
    """Every memory cell holds the prefix it was computed from."""

    def __init__(self, layout: CacheLayout, tokens_per_step: Callable[[Sequence], int] = lambda sequence: 1) -> None:
        self.layout = layout
        self.tokens_per_step = tokens_per_step
        self.cells: list[list[Prefix]] = [[UNKNOWN] * layout.block_size for _ in range(layout.total_blocks)]
        self.rows: list[Prefix] = [UNKNOWN] * layout.total_rows

    def step(self, scheduler: Scheduler, batch: ScheduledBatch) -> tuple[ModelOutput, SampledTokens]:
        """Do a scheduled step as the real runner would, and check every cell that is read."""
        for op in batch.cache_ops:
            self._apply(op)
        for sequence in batch.sequences:
            self._compute(scheduler, sequence)
        prefixes = [self._remembered(sequence) for sequence in batch.sampling]
        token_ids = [self._sample(sequence, prefix) for sequence, prefix in zip(batch.sampling, prefixes, strict=True)]
        logprobs = {
            row: tuple(TokenLogprobs(token, 0.0, likeliest(prefixes[row], count)) for token in token_ids[row])
            for row, sequence in enumerate(batch.sampling)
            if (count := sequence.sampling.logprobs) is not None
        }
        return ModelOutput(NO_LOGITS), SampledTokens(token_ids, logprobs)

    def _sample(self, sequence: Sequence, prefix: Prefix) -> tuple[int, ...]:
        """As many tokens as the sequence gets per step."""
        tokens: tuple[int, ...] = ()
        for _ in range(self.tokens_per_step(sequence)):
            tokens += (next_token(prefix + tokens),)
        return tokens

    def _apply(self, op: ZeroRow | CopyRow | CopyBlock) -> None:
        if isinstance(op, ZeroRow):
            self.rows[op.row] = ()
        elif isinstance(op, CopyRow):
            self.rows[op.target] = self.rows[op.source]
        else:
            self.cells[op.target][: op.num_tokens] = self.cells[op.source][: op.num_tokens]

    def _compute(self, scheduler: Scheduler, sequence: Sequence) -> None:
        assert sequence.slot is not None
        assert sequence.num_scheduled_tokens > 0
        first, size = sequence.num_computed_tokens, self.layout.block_size
        if self.layout.has_state:
            assert self.rows[sequence.slot] == tuple(sequence.tokens[:first])
        for position in range(first + sequence.num_scheduled_tokens):
            prefix = tuple(sequence.tokens[: position + 1])
            if self.layout.has_kv:
                block = sequence.block_table[position // size]
                if position >= first:
                    assert scheduler.pool.cache.blocks._refs[block] == 1, "a shared block is written"
                    self.cells[block][position % size] = prefix
                assert self.cells[block][position % size] == prefix
            if self.layout.has_state and position >= first:
                self.rows[sequence.slot] = prefix

    def _remembered(self, sequence: Sequence) -> Prefix:
        """The whole prefix, read from the cache and not from the sequence."""
        assert sequence.slot is not None
        if self.layout.has_state:
            return self.rows[sequence.slot]
        last = sequence.num_computed_tokens + sequence.num_scheduled_tokens - 1
        return self.cells[sequence.block_table[last // self.layout.block_size]][last % self.layout.block_size]

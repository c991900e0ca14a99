"""One step of the engine: what is scheduled, what the network and the sampler give, and the counters of all steps.

Shapes: R rows whose next token is sampled, V vocabulary.
"""

from collections.abc import Mapping
from collections.abc import Sequence as Rows
from dataclasses import dataclass, field

from torch import Tensor

from server.engine.cache.prefix_cache import CacheOp
from server.engine.sequence import Sequence
from server.engine.types import TokenLogprobs, TokenRouting

NOT_FINITE = "The model's scores for this request were not finite numbers."


@dataclass(frozen=True, slots=True)
class ScheduledBatch:
    """The sequences of one step (each has its `num_scheduled_tokens`), and the copies to do before it, in order."""

    sequences: list[Sequence]
    sampling: list[Sequence]  # those of them that get new tokens, in the order of their logits
    cache_ops: list[CacheOp]
    num_decodes: int  # how many of the sequences decode; the others compute prompt tokens
    num_prefill_tokens: int

    @property
    def is_empty(self) -> bool:
        return not self.sequences

    @property
    def num_tokens(self) -> int:
        return sum(sequence.num_scheduled_tokens for sequence in self.sequences)


@dataclass(frozen=True, slots=True)
class ModelOutput:
    """What the network gave: logits, and results of prompts by request id.

    `rows` are those of the logits that belong to `ScheduledBatch.sampling`; None: all of them, in its order.
    `failed` are the ids of requests whose prompt gave numbers that are not finite. `routing` has the tokens of the
    step whose routing is asked for and not known yet, in their order.
    """

    logits_RV: Tensor
    prompt_logprobs: Mapping[str, list[TokenLogprobs]] = field(default_factory=dict)
    embeddings: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    failed: frozenset[str] = frozenset()
    routing: Mapping[str, list[TokenRouting]] = field(default_factory=dict)
    rows: Rows[int] | None = None


@dataclass(frozen=True, slots=True)
class SampledTokens:
    """What the sampler chose for each sequence of `ScheduledBatch.sampling`: one or more tokens, in their order.

    `logprobs` has, by index, one entry per token for the sequences that asked for them. `failed` are the ids of
    requests whose logits are not finite.
    """

    token_ids: Rows[tuple[int, ...]]
    logprobs: Mapping[int, tuple[TokenLogprobs, ...]] = field(default_factory=dict)
    failed: frozenset[str] = frozenset()


@dataclass(slots=True)
class SchedulerStats:
    """Counters since the start."""

    prompt_tokens: int = 0
    generation_tokens: int = 0
    prefix_cache_queries: int = 0
    prefix_cache_hits: int = 0
    preemptions: int = 0

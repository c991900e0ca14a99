"""One step of the engine: what it computes, what comes out of it, and what all of them have added up to."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from server.engine.cache.prefix_cache import CacheOp
from server.engine.sequence import Sequence
from server.engine.types import TokenLogprobs

NOT_FINITE = "The model's scores for this request were not finite numbers."


@dataclass(frozen=True, slots=True)
class ScheduledBatch:
    """One step: the sequences (each says its `num_scheduled_tokens`), and copies to be done before, in order."""

    sequences: list[Sequence]
    sampling: list[Sequence]  # those of them that get a new token, in the order of their logits
    cache_ops: list[CacheOp]

    @property
    def is_empty(self) -> bool:
        return not self.sequences

    @property
    def num_decodes(self) -> int:
        """How many sequences generate. Of a step that has not been entered yet, as is the other number."""
        return sum(sequence.is_decoding for sequence in self.sequences)

    @property
    def num_prefill_tokens(self) -> int:
        """How many tokens of prompts it computes."""
        return sum(sequence.num_scheduled_tokens for sequence in self.sequences if not sequence.is_decoding)


@dataclass(frozen=True, slots=True)
class StepOutput:
    """The tokens of a step, in the order of `ScheduledBatch.sampling`; log-probabilities only where asked for.

    `failed` are the ids of requests whose logits were not finite numbers.
    """

    token_ids: list[int]
    logprobs: Mapping[int, TokenLogprobs] = field(default_factory=dict)  # by index in `token_ids`
    failed: frozenset[str] = frozenset()
    prompt_logprobs: Mapping[str, list[TokenLogprobs]] = field(default_factory=dict)  # by request id


@dataclass(slots=True)
class SchedulerCounts:
    """What has happened since the start."""

    prompt_tokens: int = 0
    generation_tokens: int = 0
    prefix_cache_queries: int = 0
    prefix_cache_hits: int = 0
    preemptions: int = 0

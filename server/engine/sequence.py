"""The mutable state of one request inside the engine."""

from collections.abc import Sequence as TokenIds
from dataclasses import dataclass, field, replace
from enum import Enum, auto

from model.layers.pooling import POOLERS, Pooler
from server.engine.cache.block_manager import root_digest
from server.engine.grammar.constraint import GrammarConstraint
from server.engine.logits_processors import LogitsProcessor
from server.engine.types import (
    EmbedRequest,
    EngineOutput,
    EngineRequest,
    FinishReason,
    RequestTimes,
    SamplingParams,
    TokenLogprobs,
    TokenRouting,
)


class SequenceStatus(Enum):
    WAITING = auto()
    RUNNING = auto()
    FINISHED = auto()


@dataclass(slots=True, eq=False, weakref_slot=True)
class Sequence:
    """The tokens so far, how many of them are computed, and the cache memory they use.

    `tokens` holds the prompt and all generated tokens; the newest generated ones are not computed yet. A preempted
    sequence computes everything again, so `prefill_end` (tokens to compute before the next one is sampled) may lie
    beyond the prompt. `snapshot_positions` are the positions at which the state is still to be saved, ascending.
    """

    request: EngineRequest
    number: int  # order of arrival
    seed: int
    arrival: float  # monotonic seconds
    logits_processors: tuple[LogitsProcessor, ...] = ()
    grammar: GrammarConstraint | None = None  # one of the logits processors
    request_id: str = field(init=False)
    sampling: SamplingParams = field(init=False)
    tokens: list[int] = field(init=False)
    prompt_len: int = field(init=False)
    status: SequenceStatus = SequenceStatus.WAITING
    num_computed_tokens: int = 0
    num_scheduled_tokens: int = 0
    num_cached_tokens: int = 0  # of the prompt, at the first admission
    num_preemptions: int = 0
    prefill_end: int = 0
    slot: int | None = None
    block_table: list[int] = field(default_factory=list)
    digests: list[bytes] = field(init=False)  # of the empty prefix, then of each full block of `tokens`
    snapshot_positions: list[int] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprobs] = field(default_factory=list)
    needs_prompt_logprobs: bool = field(init=False)  # prompt log-probabilities have not been sent yet
    scheduled: float | None = None
    first_token: float | None = None
    root: int = field(init=False)  # the number of the beam it was forked from, its own otherwise
    num_answer_snapshots: int = 0  # how often the state was saved after a token of `snapshot_token_ids`
    experts_per_token: int | None = field(init=False)  # None: the model's own number
    is_held: bool = False  # a beam that waits for the other beams of its group
    pooler: Pooler | None = field(init=False)  # of embed requests
    routing: list[TokenRouting] = field(default_factory=list)  # of the tokens from `first_routed` on, if asked for

    def __post_init__(self) -> None:
        self.request_id = self.request.request_id
        self.sampling = self.request.sampling
        self.tokens = list(self.request.prompt_token_ids)
        self.prompt_len = len(self.tokens)
        self.choose_experts(self.request.routing.experts_per_token)
        self.root = self.number
        self.needs_prompt_logprobs = self.sampling.prompt_logprobs
        self.pooler = _pooler(self.request)

    @property
    def priority(self) -> int:
        """Lower is more urgent."""
        return self.request.scheduling.priority

    @property
    def tenant(self) -> str:
        """Whose request it is."""
        return self.request.scheduling.tenant

    @property
    def num_tokens_left(self) -> int:
        """Tokens that are neither computed nor scheduled."""
        return len(self.tokens) - self.num_computed_tokens - self.num_scheduled_tokens

    @property
    def queue_order(self) -> tuple[int, int, int]:
        """Sorts sequences by priority, then by arrival; the beams of a request stay together."""
        return self.priority, self.root, self.number

    @property
    def num_output_tokens(self) -> int:
        return len(self.tokens) - self.prompt_len

    @property
    def first_scored(self) -> int:
        """Position of the first prompt token whose log-probability is asked for."""
        return max(1, self.request.boundaries[-1] if self.request.boundaries else 1)

    @property
    def reuse_limit(self) -> int:
        """How many tokens may come from the prefix cache: the token before the next logits must be computed."""
        if self.pooler is not None and self.pooler.needs_all_tokens:
            return 0
        limit = (self.first_scored if self.needs_prompt_logprobs else len(self.tokens)) - 1
        return limit if self.request.routing.returned is None else min(limit, self.first_routed + len(self.routing))

    @property
    def first_routed(self) -> int:
        """Position of the first token whose routing is asked for: of the prompt's last one if of no other."""
        returned = self.request.routing.returned
        return 0 if returned is not None and returned.prompt else self.prompt_len - 1

    def returned_routing(self, count: int, first: int = 0) -> tuple[tuple[TokenRouting, ...], tuple[TokenRouting, ...]]:
        """What is asked for of `count` tokens from number `first` on, and of the prompt if these are the first.

        The routing of a generated token is that of the token before it, from whose step it was sampled.
        """
        returned = self.request.routing.returned
        if returned is None:
            return (), ()
        start = self.prompt_len - 1 - self.first_routed + first
        prompt = tuple(self.routing[: self.prompt_len]) if returned.prompt and not first else ()
        return tuple(self.routing[start : start + count]), prompt

    def with_routing(self, output: EngineOutput, first: int = 0) -> EngineOutput:
        """The output with the routing that is asked for; its tokens are those from number `first` on."""
        if self.request.routing.returned is None:
            return output
        routing, prompt_routing = self.returned_routing(len(output.token_ids), first)
        return replace(output, routing=routing, prompt_routing=prompt_routing)

    @property
    def is_decoding(self) -> bool:
        return self.num_computed_tokens >= self.prefill_end

    @property
    def is_last_chunk(self) -> bool:
        """Whether the scheduled tokens are the last ones that are not computed yet."""
        return self.num_computed_tokens + self.num_scheduled_tokens == len(self.tokens)

    @property
    def samples(self) -> bool:
        """Whether this step samples a new token."""
        return self.is_last_chunk and self.sampling.max_tokens > 0

    @property
    def is_at_snapshot_token(self) -> bool:
        """Whether the token that was computed last is a generated one after which the state is to be saved."""
        marks, computed = self.request.snapshot_token_ids, self.num_computed_tokens
        return bool(marks) and computed > self.prompt_len and self.tokens[computed - 1] in marks

    def append(self, token_ids: TokenIds[int]) -> None:
        """Add generated tokens."""
        self.tokens += token_ids
        if self.logits_processors:
            for processor in self.logits_processors:
                processor.advance(token_ids)
            self.logits_processors = tuple(processor for processor in self.logits_processors if processor.is_active)

    def choose_experts(self, experts_per_token: int | None) -> None:
        """Set the number of experts before anything of the sequence is computed."""
        self.experts_per_token = experts_per_token
        routing, adapter = self.request.routing, self.request.adapter
        computed_with = (experts_per_token, routing.masked_experts, routing.forced_experts, adapter)
        self.digests = [root_digest(self.request.cache_salt, computed_with)]

    def reset(self) -> None:
        """Start again after a preemption: nothing is computed any more."""
        self.status = SequenceStatus.WAITING
        self.num_preemptions += 1
        self.num_computed_tokens = 0
        self.prompt_logprobs.clear()
        self.pooler = _pooler(self.request)

    def fork(self, request: EngineRequest, number: int, token: int) -> "Sequence":
        """Another continuation of the same tokens, with one more, as a waiting sequence that owns no memory."""
        child = Sequence(request, number, self.seed, self.arrival)
        child.tokens = [*self.tokens, token]
        child.root, child.num_cached_tokens = self.root, self.num_cached_tokens
        child.digests, child.experts_per_token = list(self.digests), self.experts_per_token
        child.scheduled = self.scheduled
        child.routing = list(self.routing)
        return child

    def terminal(
        self,
        reason: FinishReason,
        now: float,
        *,
        token_ids: tuple[int, ...] = (),
        logprobs: tuple[TokenLogprobs, ...] = (),
        prompt_logprobs: tuple[TokenLogprobs, ...] = (),
        embedding: tuple[float, ...] = (),
        error: str | None = None,
        is_request_error: bool = False,
    ) -> EngineOutput:
        """The last output of this request."""
        return EngineOutput(
            self.request_id,
            token_ids,
            logprobs,
            prompt_logprobs,
            self.num_cached_tokens,
            reason,
            error,
            RequestTimes(self.arrival, self.scheduled, self.first_token, now),
            embedding,
            is_request_error,
            experts_per_token=self.experts_per_token,
        )


def _pooler(request: EngineRequest) -> Pooler | None:
    return POOLERS[request.pooling]() if isinstance(request, EmbedRequest) else None

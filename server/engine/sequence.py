"""The mutable life of one request inside the engine."""

from dataclasses import dataclass, field
from enum import Enum, auto

from server.engine.types import EngineOutput, EngineRequest, FinishReason, RequestTimes, SamplingParams, TokenLogprobs


class SequenceStatus(Enum):
    WAITING = auto()
    RUNNING = auto()
    FINISHED = auto()


@dataclass(slots=True, eq=False, weakref_slot=True)
class Sequence:
    """Tokens so far, how many of them are computed, and which memory they are in.

    `tokens` holds the prompt and all generated tokens; the newest generated one is not computed yet. A preempted
    sequence computes everything again, so `prefill_end` (tokens to compute before the next one is sampled) may lie
    beyond the prompt. `snapshot_positions` are the positions still to be remembered, ascending.
    """

    request: EngineRequest
    number: int  # order of arrival
    seed: int
    arrival: float  # monotonic seconds
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
    digests: list[bytes] = field(default_factory=list)  # of the full blocks of `tokens`
    snapshot_positions: list[int] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprobs] = field(default_factory=list)
    scores_prompt: bool = field(init=False)  # prompt log-probabilities are still owed
    scheduled: float | None = None
    first_token: float | None = None
    root: int = field(init=False)  # the number of the beam it came from, its own otherwise
    is_held: bool = False  # a beam that waits for the others of its group

    def __post_init__(self) -> None:
        self.tokens = list(self.request.prompt_token_ids)
        self.prompt_len = len(self.tokens)
        self.root = self.number
        self.scores_prompt = self.sampling.prompt_logprobs

    @property
    def request_id(self) -> str:
        return self.request.request_id

    @property
    def sampling(self) -> SamplingParams:
        return self.request.sampling

    @property
    def key(self) -> tuple[int, int]:
        """Who goes first: the lower one, which is who came first; the beams of a request stand together."""
        return self.root, self.number

    @property
    def num_output_tokens(self) -> int:
        return len(self.tokens) - self.prompt_len

    @property
    def first_scored(self) -> int:
        """Position of the first prompt token whose log-probability is asked for."""
        return max(1, self.request.boundaries[-1] if self.request.boundaries else 1)

    @property
    def reuse_limit(self) -> int:
        """How many tokens may come from the cache: the token before the next logits must be computed."""
        return (self.first_scored if self.scores_prompt else len(self.tokens)) - 1

    @property
    def is_decoding(self) -> bool:
        return self.num_computed_tokens >= self.prefill_end

    @property
    def samples(self) -> bool:
        """Whether the scheduled tokens reach the end, so that this step samples the next one."""
        reached = self.num_computed_tokens + self.num_scheduled_tokens
        return reached == len(self.tokens) and self.sampling.max_tokens > 0

    def fork(self, request: EngineRequest, number: int, token: int) -> "Sequence":
        """Another continuation of the same tokens, with one more, as a waiting sequence that owns nothing."""
        child = Sequence(request, number, self.seed, self.arrival)
        child.tokens = [*self.tokens, token]
        child.root, child.num_cached_tokens = self.root, self.num_cached_tokens
        child.digests = list(self.digests)
        child.scheduled = self.scheduled
        return child

    def terminal(
        self,
        reason: FinishReason,
        now: float,
        *,
        token_ids: tuple[int, ...] = (),
        logprobs: tuple[TokenLogprobs, ...] = (),
        prompt_logprobs: tuple[TokenLogprobs, ...] = (),
        error: str | None = None,
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
        )

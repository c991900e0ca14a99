"""The messages that cross the engine's boundary: plain frozen values, no text, no tensors."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType


class FinishReason(StrEnum):
    """Why a request ended. Exactly one of them closes every accepted request."""

    STOP = "stop"  # an end-of-sequence or stop token
    LENGTH = "length"  # max_tokens, or the model's context is full
    ABORT = "abort"  # the client left, or the server is shutting down
    ERROR = "error"  # the step that held the request failed


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to choose each next token. Defaults mean: plain sampling from the model's distribution.

    `seed` makes the noise a function of (seed, position) alone; without one the engine draws a seed per request.
    `logprobs` asks for the chosen token's log-probability and that many alternatives (None: not at all).
    Log-probabilities are those of the model, before temperature and penalties.

    `prompt_logprobs` scores the prompt: the log-probabilities of its tokens from the request's last boundary on, or of
    all after the first if it has no boundaries. What comes before that boundary may be reused, not computed.

    `beam_width` above 1 searches for the likeliest answer as a whole among that many at a time; it comes in one piece.
    """

    max_tokens: int
    temperature: float = 1.0
    top_k: int = 0  # 0: no limit
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0  # > 1 makes tokens of prompt and output less likely
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=lambda: MappingProxyType({}))
    stop_token_ids: frozenset[int] = frozenset()
    min_tokens: int = 0
    ignore_eos: bool = False
    seed: int | None = None
    logprobs: int | None = None
    prompt_logprobs: bool = False
    beam_width: int = 1


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """One prompt to continue. `boundaries` are prompt positions worth remembering for prefix reuse, ascending.

    A boundary p means: the first p tokens are likely to be shared with other requests (the end of a system prompt,
    the end of a turn). `arrival_time` is time.monotonic() seconds. `max_tokens == 0` with `prompt_logprobs` scores a
    prompt and generates nothing.
    """

    request_id: str
    prompt_token_ids: tuple[int, ...]
    sampling: SamplingParams
    boundaries: tuple[int, ...] = ()
    arrival_time: float = 0.0


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Log-probability (natural log) of the chosen token and of the `logprobs` likeliest ones, likeliest first."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class RequestTimes:
    """Monotonic seconds of a request's turning points; what the latency histograms are made of."""

    arrival: float
    scheduled: float | None = None  # first taken from the waiting queue
    first_token: float | None = None
    finished: float | None = None


@dataclass(frozen=True, slots=True)
class EngineOutput:
    """What one step made for one request. The last output of a request, and no other, has a `finish_reason`.

    A terminal output may carry no token (abort, error). `num_cached_tokens` says how much of the prompt was reused.
    """

    request_id: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...] = ()
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()  # only on the first output, when asked for
    num_cached_tokens: int = 0
    finish_reason: FinishReason | None = None
    error: str | None = None  # what to tell the client when finish_reason is ERROR
    times: RequestTimes | None = None  # only on the terminal output


@dataclass(frozen=True, slots=True)
class LayerLoad:
    """Routing of one layer since the start: what /metrics shows of the experts. Counts are of (token, expert) pairs."""

    layer: int
    tokens_per_expert: tuple[int, ...]
    entropy: float  # nats, running mean of the router's distribution per token
    imbalance: float  # MaxVio: (max load - mean load) / mean load


@dataclass(frozen=True, slots=True)
class EngineStats:
    """A consistent snapshot of the engine, cheap to take; counters only grow."""

    running: int
    waiting: int
    kv_blocks_used: int  # referenced by live requests; blocks kept only for reuse count as free
    kv_blocks_total: int
    state_slots_used: int
    state_slots_total: int
    snapshots_used: int
    snapshots_total: int
    prompt_tokens: int
    generation_tokens: int
    prefix_cache_queries: int  # prompt tokens looked up
    prefix_cache_hits: int  # prompt tokens found
    preemptions: int
    steps: int
    step_failures: int
    healthy: bool  # False after several failed steps in a row
    layers: tuple[LayerLoad, ...] = ()

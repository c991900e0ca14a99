"""The messages that cross the engine's boundary: frozen plain values without text or tensors, which can be encoded."""

from bisect import bisect_left
from dataclasses import dataclass, field
from enum import StrEnum

from model.layers.pooling import PoolingType


class FinishReason(StrEnum):
    """Why a request ended. Every accepted request ends with exactly one of them."""

    STOP = "stop"  # an end-of-sequence or stop token; of an embed request: the embedding is there
    LENGTH = "length"  # max_tokens is reached, or the model's context is full
    TIMEOUT = "timeout"  # its deadline has come
    ABORT = "abort"  # the client left, or the server is shutting down
    ERROR = "error"  # the step that held the request failed, or its grammar cannot be followed


@dataclass(frozen=True, slots=True)
class ThinkingBudget:
    """After how many tokens thinking is ended.

    Thinking begins after the tokens `open`, or with the first token if `open` is empty, and ends with the tokens
    `close`. When it has `max_tokens`, the tokens `forced` come next, whatever the model says.
    """

    max_tokens: int
    open: tuple[int, ...]
    close: tuple[int, ...]
    forced: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to choose each next token. The defaults sample from the model's distribution as it is.

    `seed` makes the noise a function of (seed, position) alone; without one the engine draws a seed per request.
    `logprobs` asks for the chosen token's log-probability and that many alternatives (None: not at all).
    Log-probabilities are those of the model, before temperature and penalties.

    `prompt_logprobs` also scores the prompt: the log-probabilities of its tokens from the request's last boundary on,
    or of all after the first if it has no boundaries. The tokens before that boundary may come from the prefix cache.

    `beam_width` above 1 runs a beam search of that width; its answer comes in one output.

    `grammar` (Lark text, or llguidance's JSON form) says which outputs are allowed. The sequence ends with STOP where
    nothing may follow, with or without an end token. Compile it before: the engine waits for a plain text.
    """

    max_tokens: int
    temperature: float = 1.0
    top_k: int = 0  # 0: no limit
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0  # > 1 makes tokens of prompt and output less likely
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()  # (token id, what is added to its logit)
    allowed_token_ids: tuple[int, ...] = ()  # empty: all
    bad_words: tuple[tuple[int, ...], ...] = ()  # sequences of token ids that must not occur in the output
    stop_token_ids: frozenset[int] = frozenset()
    min_tokens: int = 0
    ignore_eos: bool = False
    seed: int | None = None
    logprobs: int | None = None
    prompt_logprobs: bool = False
    beam_width: int = 1
    thinking_budget: ThinkingBudget | None = None
    grammar: str | None = None


@dataclass(frozen=True, slots=True)
class SchedulingParams:
    """When a request is computed, compared with others.

    A lower `priority` is more urgent; it may be negative. Requests of equal priority share the engine fairly between
    their tenants, which are told apart by any string. At its `deadline` (time.monotonic() seconds) a request ends.
    """

    priority: int = 0
    tenant: str = ""
    deadline: float | None = None


@dataclass(frozen=True, slots=True)
class ReturnedRouting:
    """Which routing a request gets back: of `layers`, at most the `top` experts of a token with the largest gates.

    `prompt`: that of the prompt tokens too, which are then all computed. It begins with the first token asked for and
    ends after `max_tokens` tokens.
    """

    layers: tuple[int, ...]
    top: int | None = None
    prompt: bool = False
    max_tokens: int = 2**17


ExpertsByLayer = tuple[tuple[int, tuple[int, ...]], ...]


@dataclass(frozen=True, slots=True)
class RoutingParams:
    """How the routers choose for the tokens of a request.

    `experts_per_token` replaces the model's own number in every MoE layer. Where it is None and `adaptive`, the engine
    may lower the number under load. `masked_experts` are the experts, by layer, that get no token of the request;
    `forced_experts` are those that get every one, and no others in these layers. `returned` says what the request gets
    to know about the choices, and `task` under which name they are counted.
    """

    experts_per_token: int | None = None
    adaptive: bool = True
    masked_experts: ExpertsByLayer = ()
    forced_experts: ExpertsByLayer = ()
    returned: ReturnedRouting | None = None
    task: str = ""


DEFAULT_ROUTING = RoutingParams()


@dataclass(frozen=True, slots=True)
class _Request:
    """What all requests have.

    A boundary p means: the first p prompt tokens are likely to be shared with other requests (the end of a system
    prompt, the end of a turn). `boundaries` are ascending. `arrival_time` is time.monotonic() seconds. Requests reuse
    each other's prefixes only if they have the same `cache_salt`. After generated tokens of `snapshot_token_ids` the
    recurrent state is saved, because others may go on from there, such as from the end of reasoning. `adapter` is the
    name of a LoRA adapter of the network; prefixes that were computed with another one are not reused.
    """

    request_id: str
    prompt_token_ids: tuple[int, ...]
    boundaries: tuple[int, ...] = field(default=(), kw_only=True)
    arrival_time: float = field(default=0.0, kw_only=True)
    cache_salt: str = field(default="", kw_only=True)
    adapter: str | None = field(default=None, kw_only=True)
    scheduling: SchedulingParams = field(default=SchedulingParams(), kw_only=True)
    routing: RoutingParams = field(default=DEFAULT_ROUTING, kw_only=True)
    snapshot_token_ids: frozenset[int] = field(default=frozenset(), kw_only=True)


@dataclass(frozen=True, slots=True)
class GenerateRequest(_Request):
    """Continue a prompt."""

    sampling: SamplingParams


@dataclass(frozen=True, slots=True)
class ScoreRequest(_Request):
    """Log-probabilities of a prompt's tokens, as `SamplingParams.prompt_logprobs` describes them; generates nothing.

    Each token comes with its `num_alternatives` likeliest alternatives.
    """

    num_alternatives: int = 0

    @property
    def sampling(self) -> SamplingParams:
        return SamplingParams(max_tokens=0, prompt_logprobs=True, logprobs=self.num_alternatives)


@dataclass(frozen=True, slots=True)
class EmbedRequest(_Request):
    """One vector from the hidden states of a prompt, after the final norm; generates nothing."""

    pooling: PoolingType = "lasttoken"

    @property
    def sampling(self) -> SamplingParams:
        return SamplingParams(max_tokens=0)


EngineRequest = GenerateRequest | ScoreRequest | EmbedRequest


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Log-probability (natural log) of the chosen token and of the `logprobs` likeliest ones, likeliest first."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class TokenRouting:
    """The experts that one token went to, in each layer of `ReturnedRouting.layers`, largest gate first.

    `gates` are the weights of their outputs, rounded to nine decimals.
    """

    experts: tuple[tuple[int, ...], ...]
    gates: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True)
class RequestTimes:
    """When a request reached each stage, in monotonic seconds: the source of the latency histograms."""

    arrival: float
    scheduled: float | None = None  # first taken from the waiting queue
    first_token: float | None = None
    finished: float | None = None


@dataclass(slots=True, unsafe_hash=True)  # not frozen: that would take five times as long to create, for every token
class EngineOutput:
    """What one step computed for one request. The last output of a request, and no other, has a `finish_reason`.

    A terminal output may carry no token (abort, error), and the first one of a beam search carries none: it tells that
    the prompt is computed. `num_cached_tokens` of the prompt came from the prefix cache.
    """

    request_id: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...] = ()  # one per token, when asked for
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()  # only on the first output, when asked for
    num_cached_tokens: int = 0
    finish_reason: FinishReason | None = None
    error: str | None = None  # what to tell the client when finish_reason is ERROR
    times: RequestTimes | None = None  # only on the terminal output
    embedding: tuple[float, ...] = ()  # only on the terminal output of an embed request
    is_request_error: bool = False  # the error is the request's own fault, not the server's
    routing: tuple[TokenRouting, ...] = ()  # one per token, when asked for: of the step that the token is sampled from
    prompt_routing: tuple[TokenRouting, ...] = ()  # one per prompt token, only on the first output, when asked for
    experts_per_token: int | None = None  # only on the terminal output; None: the model's own number


@dataclass(frozen=True, slots=True)
class LayerLoad:
    """Expert load of one layer since the start. Counts are of (token, expert) pairs."""

    layer: int
    tokens_per_expert: tuple[int, ...]
    entropy: float  # nats, running mean of the router's distribution per token
    imbalance: float  # MaxVio: (max load - mean load) / mean load


@dataclass(frozen=True, slots=True)
class LabelLoad:
    """Expert load of one task or tenant in some minutes: (token, expert) pairs by MoE layer and expert."""

    label: str
    num_tokens: int
    pairs: tuple[tuple[int, ...], ...]


STEP_TOKEN_BUCKETS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)


@dataclass(frozen=True, slots=True)
class StepTokens:
    """Steps by how many tokens they computed.

    `counts[i]` steps had at most STEP_TOKEN_BUCKETS[i] tokens and more than the bucket before; the last count is of
    those above all. `total` is the sum of the tokens.
    """

    counts: tuple[int, ...] = (0,) * (len(STEP_TOKEN_BUCKETS) + 1)
    total: int = 0

    def add(self, tokens: int) -> "StepTokens":
        bucket = bisect_left(STEP_TOKEN_BUCKETS, tokens)
        counts = (count + (number == bucket) for number, count in enumerate(self.counts))
        return StepTokens(tuple(counts), self.total + tokens)


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
    experts_per_token: int | None = None  # of new sequences, where the engine chooses it
    step_tokens: StepTokens = StepTokens()  # of the steps that did not fail

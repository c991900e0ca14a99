"""Prometheus metrics: vLLM's names for what every engine has, `routelm:` for routing and recurrent state.

A generation is the continuation of one prompt. An HTTP request may take many: a long translation takes one per
sentence. What vLLM's names call requests are generations here. Latencies and sizes are observed when a generation
ends, HTTP requests are counted by the middleware, and everything else is read from EngineStats at scrape time.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate
from types import MappingProxyType

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from model.load_balance import idle_experts
from server.engine.types import STEP_TOKEN_BUCKETS, EngineStats, FinishReason, RequestTimes, StepTokens
from server.generation.stream import Usage
from server.version import package_version

MAX_EXPERT_SERIES = 2048  # per metric; a model with more experts than that gets series per layer only
NO_LABELS: Mapping[str, str] = MappingProxyType({})

# A token takes a millisecond with a small model and seconds with a large one: buckets are narrow at the low end.
INTER_TOKEN_BUCKETS = (
    *(0.00025, 0.0005, 0.00075, 0.001, 0.0015, 0.002, 0.003, 0.004, 0.006, 0.008),
    *(0.01, 0.015, 0.02, 0.03, 0.04, 0.06, 0.08, 0.1, 0.15, 0.25, 0.5, 1, 2.5),
)
FIRST_TOKEN_BUCKETS = (
    *(0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075),
    *(0.1, 0.15, 0.25, 0.5, 0.75, 1, 1.5, 2.5, 5, 10, 20, 40, 80),
)
REQUEST_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1, 1.5, 2.5, 5, 10, 15, 30, 60, 120, 240, 480)
QUEUE_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 240)
TOKEN_BUCKETS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000, 200_000)


class KeyMetrics:
    """The series of API keys, by name. Keys are named in a file, which bounds the number of series."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str) -> Counter:
            return Counter(f"routelm:key_{name}", text, ["key"], registry=registry)

        self._requests = counter("requests", "POST requests of an API key that were within its limits.")
        self._refused = counter("requests_refused", "POST requests above the limits of their API key.")
        self._prompt_tokens = counter("prompt_tokens", "Prompt tokens of an API key.")
        self._generation_tokens = counter("generation_tokens", "Generated tokens of an API key.")

    def accepted(self, key: str) -> None:
        self._requests.labels(key).inc()

    def refused(self, key: str) -> None:
        self._refused.labels(key).inc()

    def add_tokens(self, key: str, prompt_tokens: int, generation_tokens: int) -> None:
        self._prompt_tokens.labels(key).inc(prompt_tokens)
        self._generation_tokens.labels(key).inc(generation_tokens)


class GenerationMetrics:
    """Latencies and sizes of generations, under vLLM's names."""

    def __init__(self, registry: CollectorRegistry, model_name: str) -> None:
        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            family = Histogram(name, text, ["model_name"], registry=registry, buckets=buckets)
            return family.labels(model_name)

        self._first_token = histogram(
            "vllm:time_to_first_token_seconds",
            "From the arrival of a generation to its first token.",
            FIRST_TOKEN_BUCKETS,
        )
        self.inter_token = histogram(
            "vllm:inter_token_latency_seconds", "Between two tokens of one generation.", INTER_TOKEN_BUCKETS
        )
        self._request = histogram(
            "vllm:e2e_request_latency_seconds", "From the arrival of a generation to its last token.", REQUEST_BUCKETS
        )
        self._queue = histogram(
            "vllm:request_queue_time_seconds", "Time of a generation in the waiting queue.", QUEUE_BUCKETS
        )
        self._prefill = histogram(
            "vllm:request_prefill_time_seconds",
            "Of a generation, from the queue to the first token.",
            REQUEST_BUCKETS,
        )
        self._decode = histogram(
            "vllm:request_decode_time_seconds", "Of a generation, from the first token to the last.", REQUEST_BUCKETS
        )
        self._prompt_tokens = histogram("vllm:request_prompt_tokens", "Prompt tokens of a generation.", TOKEN_BUCKETS)
        self._generation_tokens = histogram(
            "vllm:request_generation_tokens", "Generated tokens of a generation.", TOKEN_BUCKETS
        )

    def observe(self, usage: Usage, times: RequestTimes | None) -> None:
        """A generation has ended. Phases that it did not reach are left out."""
        self._prompt_tokens.observe(usage.prompt_tokens)
        self._generation_tokens.observe(usage.completion_tokens)
        if times is None:
            return
        for start, end, family in (
            (times.arrival, times.scheduled, self._queue),
            (times.arrival, times.first_token, self._first_token),
            (times.arrival, times.finished, self._request),
            (times.scheduled, times.first_token, self._prefill),
            (times.first_token, times.finished, self._decode),
        ):
            if start is not None and end is not None:
                family.observe(end - start)


class Metrics:
    """All series of one application, in a registry of its own. Observes generations."""

    def __init__(
        self, model_name: str, stats: Callable[[], EngineStats], cache_config: Mapping[str, str] = NO_LABELS
    ) -> None:
        """`cache_config`: what vLLM's name for each says of the cache, such as its block size."""
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.registry.register(EngineCollector(model_name, stats, cache_config))
        self.keys = KeyMetrics(self.registry)
        self._generations = GenerationMetrics(self.registry, model_name)
        success = Counter(
            "vllm:request_success",
            "Generations that ended, by reason; an HTTP request may take many.",
            ["model_name", "finished_reason"],
            registry=self.registry,
        )
        self._success = {reason: success.labels(model_name, reason.value) for reason in FinishReason}
        self._http_requests = Counter(
            "routelm:http_requests",
            "POST requests answered, by HTTP status; each counts once, however many generations it takes.",
            ["code"],
            registry=self.registry,
        )
        for status in (200, 429, 500, 503):  # alerts need the first increase, so a scraper must see a 0
            self._http_requests.labels(str(status))
        rejected = Counter(
            "routelm:requests_rejected",
            "HTTP requests refused before acceptance, by reason.",
            ["reason"],
            registry=self.registry,
        )
        reasons = ("queue_full", "deadline_unreachable", "draining", "prompt_too_long", "too_many_connections")
        self._rejected = {reason: rejected.labels(reason) for reason in reasons}
        self._aborted = Counter(
            "routelm:requests_aborted",
            "Generations whose client left before the end; an HTTP request may take many.",
            registry=self.registry,
        )
        self._by_experts = Counter(
            "routelm:generations_by_experts",
            "Generations for which the request or the server chose the number of experts per token.",
            ["experts"],
            registry=self.registry,
        )

    def answered(self, status: int) -> None:
        self._http_requests.labels(str(status)).inc()

    def rejected(self, reason: str) -> None:
        self._rejected[reason].inc()

    def inter_token(self, seconds: float) -> None:
        self._generations.inter_token.observe(seconds)

    def finished(self, reason: FinishReason, usage: Usage, times: RequestTimes | None) -> None:
        self._success[reason].inc()
        self._generations.observe(usage, times)
        if usage.experts_per_token is not None:
            self._by_experts.labels(str(usage.experts_per_token)).inc()

    def aborted(self) -> None:
        self._aborted.inc()
        self._success[FinishReason.ABORT].inc()

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """The text for a scraper that sends this Accept header, and its content type."""
        series = _WithoutCreated(self.registry)
        if "application/openmetrics-text" not in accept:
            return generate_latest(series), CONTENT_TYPE_PLAIN_0_0_4
        # Not choose_encoder, which for most Accept headers replaces the colons of our names with underscores.
        text: bytes = openmetrics.generate_latest(series, openmetrics.ALLOWUTF8)  # type: ignore[no-untyped-call]
        return text, openmetrics.CONTENT_TYPE_LATEST


class EngineCollector(Collector):
    """Reads the engine's counters at scrape time."""

    def __init__(self, model_name: str, stats: Callable[[], EngineStats], cache_config: Mapping[str, str]) -> None:
        self._model_name = model_name
        self._stats = stats
        self._cache_config = cache_config

    def describe(self) -> Iterable[Metric]:
        """Empty, because the engine may not have started when the collector is registered."""
        return ()

    def collect(self) -> Iterator[Metric]:
        stats = self._stats()
        labels = {"model_name": self._model_name}
        yield from _shared(stats, labels)
        yield from _memory(stats)
        yield _step_tokens(stats.step_tokens, labels)
        yield _gauge("vllm:cache_config_info", "How the cache is set, in labels.", 1, {**labels, **self._cache_config})
        yield _counter("routelm:engine_steps", "Steps of the engine.", stats.steps)
        yield _counter("routelm:engine_step_failures", "Steps that failed.", stats.step_failures)
        yield from _routing(stats)
        if stats.experts_per_token is not None:
            text = "Experts per token of new generations; lower than the most allowed only under load."
            yield _gauge("routelm:experts_per_token", text, stats.experts_per_token)
        yield _gauge(
            "routelm:build_info",
            "Versions, in labels.",
            1,
            {**labels, "version": package_version("routelm"), "torch_version": package_version("torch")},
        )


def _shared(stats: EngineStats, labels: dict[str, str]) -> Iterator[Metric]:
    usage = stats.kv_blocks_used / stats.kv_blocks_total if stats.kv_blocks_total else 0.0
    yield _gauge("vllm:num_requests_running", "Generations in the batch.", stats.running, labels)
    yield _gauge("vllm:num_requests_waiting", "Generations in the waiting queue.", stats.waiting, labels)
    yield _gauge("vllm:kv_cache_usage_perc", "Share of KV blocks in use, 0 to 1.", usage, labels)
    for name, text, value in (
        ("prefix_cache_queries", "Prompt tokens looked up in the prefix cache.", stats.prefix_cache_queries),
        ("prefix_cache_hits", "Prompt tokens found in the prefix cache.", stats.prefix_cache_hits),
        ("num_preemptions", "Times that a generation was put back to recompute.", stats.preemptions),
        ("prompt_tokens", "Prompt tokens of generations.", stats.prompt_tokens),
        ("generation_tokens", "Generated tokens.", stats.generation_tokens),
    ):
        yield _counter(f"vllm:{name}", text, value, labels)


def _memory(stats: EngineStats) -> Iterator[Metric]:
    for name, text, used, capacity in (
        ("kv_blocks", "KV blocks", stats.kv_blocks_used, stats.kv_blocks_total),
        ("state_slots", "Recurrent-state slots", stats.state_slots_used, stats.state_slots_total),
        ("state_snapshots", "Snapshots of recurrent state", stats.snapshots_used, stats.snapshots_total),
    ):
        yield _gauge(f"routelm:{name}_used", f"{text} in use.", used)
        yield _gauge(f"routelm:{name}_capacity", f"{text} there are.", capacity)


def _step_tokens(steps: StepTokens, labels: Mapping[str, str]) -> Metric:
    family = HistogramMetricFamily("vllm:iteration_tokens_total", "Tokens of an engine step.", labels=list(labels))
    bounds = [*map(float, STEP_TOKEN_BUCKETS), math.inf]
    names = [floatToGoString(bound) for bound in bounds]  # type: ignore[no-untyped-call]
    buckets = list(zip(names, accumulate(steps.counts), strict=True))
    family.add_metric(list(labels.values()), buckets, steps.total)
    return family


def _routing(stats: EngineStats) -> Iterator[Metric]:
    tokens = CounterMetricFamily("routelm:moe_expert_tokens", "Tokens that an expert got.", labels=["layer", "expert"])
    share = GaugeMetricFamily(
        "routelm:moe_expert_share", "Share of a layer's tokens that an expert got, 0 to 1.", labels=["layer", "expert"]
    )
    entropy = GaugeMetricFamily(
        "routelm:moe_routing_entropy",
        "Mean entropy, in nats, of a softmax over a token's raw router scores since the start, for every router.",
        labels=["layer"],
    )
    imbalance = GaugeMetricFamily(
        "routelm:moe_load_imbalance", "MaxVio: (max load - mean load) / mean load.", labels=["layer"]
    )
    idle = GaugeMetricFamily(
        "routelm:moe_idle_experts_ratio",
        "Share of a layer's experts that got less than a tenth of the mean load since the start, 0 to 1.",
        labels=["layer"],
    )
    show_experts = sum(len(layer.tokens_per_expert) for layer in stats.layers) <= MAX_EXPERT_SERIES
    for layer in stats.layers:
        name = str(layer.layer)
        entropy.add_metric([name], layer.entropy)
        imbalance.add_metric([name], layer.imbalance)
        idle.add_metric([name], len(idle_experts(layer.tokens_per_expert)) / len(layer.tokens_per_expert))
        total = max(1, sum(layer.tokens_per_expert))
        for expert, count in enumerate(layer.tokens_per_expert if show_experts else ()):
            tokens.add_metric([name, str(expert)], count)
            share.add_metric([name, str(expert)], count / total)
    yield from (tokens, share, entropy, imbalance, idle)


def _gauge(name: str, text: str, value: float, labels: Mapping[str, str] | None = None) -> Metric:
    labels = labels or NO_LABELS
    family = GaugeMetricFamily(name, text, labels=list(labels))
    family.add_metric(list(labels.values()), value)
    return family


def _counter(name: str, text: str, value: float, labels: Mapping[str, str] | None = None) -> Metric:
    labels = labels or NO_LABELS
    family = CounterMetricFamily(name, text, labels=list(labels))
    family.add_metric(list(labels.values()), value)
    return family


class _WithoutCreated(Collector):
    """The registry without `_created` series, which would double the output and are not used."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        for family in self._registry.collect():
            family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
            yield family

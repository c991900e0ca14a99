"""The series on /metrics: names that dashboards rely on, bounded labels, parsable in both formats."""

from dataclasses import replace

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from server.engine.types import EngineStats, FinishReason, LayerLoad, RequestTimes, StepTokens
from server.generation.stream import Usage
from server.metrics import MAX_EXPERT_SERIES, Metrics

STATS = EngineStats(
    running=2,
    waiting=3,
    kv_blocks_used=25,
    kv_blocks_total=100,
    state_slots_used=2,
    state_slots_total=64,
    snapshots_used=5,
    snapshots_total=10,
    prompt_tokens=1000,
    generation_tokens=500,
    prefix_cache_queries=1000,
    prefix_cache_hits=300,
    preemptions=1,
    steps=77,
    step_failures=2,
    healthy=True,
    layers=(LayerLoad(1, (30, 10), 0.6, 0.5),),
)


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text = metrics.exposition("")[0].decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parse_text(text)
        for sample in family.samples
    }


def value(metrics: Metrics, name: str, **labels: str) -> float:
    return samples(metrics)[name, tuple(sorted(labels.items()))]


def test_the_engines_counters_have_vllms_names() -> None:
    metrics = Metrics("m", lambda: STATS)
    expected = {
        "vllm:num_requests_running": 2,
        "vllm:num_requests_waiting": 3,
        "vllm:kv_cache_usage_perc": 0.25,
        "vllm:prefix_cache_queries_total": 1000,
        "vllm:prefix_cache_hits_total": 300,
        "vllm:num_preemptions_total": 1,
        "vllm:prompt_tokens_total": 1000,
        "vllm:generation_tokens_total": 500,
    }
    assert {name: value(metrics, name, model_name="m") for name in expected} == expected


def test_our_own_series() -> None:
    metrics = Metrics("m", lambda: STATS)
    expected = {
        "routelm:state_slots_used": 2,
        "routelm:state_slots_capacity": 64,
        "routelm:state_snapshots_used": 5,
        "routelm:state_snapshots_capacity": 10,
        "routelm:kv_blocks_used": 25,
        "routelm:kv_blocks_capacity": 100,
        "routelm:engine_steps_total": 77,
        "routelm:engine_step_failures_total": 2,
        "routelm:requests_aborted_total": 0,
    }
    assert {name: value(metrics, name) for name in expected} == expected
    assert value(metrics, "routelm:moe_expert_tokens_total", layer="1", expert="0") == 30
    assert value(metrics, "routelm:moe_expert_share", layer="1", expert="1") == 0.25
    assert value(metrics, "routelm:moe_routing_entropy", layer="1") == 0.6
    assert value(metrics, "routelm:moe_load_imbalance", layer="1") == 0.5
    assert any(name == "routelm:build_info" for name, _ in samples(metrics))


def test_a_finished_request_is_observed_once() -> None:
    metrics = Metrics("m", lambda: STATS)
    times = RequestTimes(arrival=10.0, scheduled=10.004, first_token=10.02, finished=11.0)
    metrics.finished(FinishReason.STOP, Usage(7, 3, 0), times)
    metrics.inter_token(0.0004)
    assert value(metrics, "vllm:request_success_total", model_name="m", finished_reason="stop") == 1
    assert value(metrics, "vllm:e2e_request_latency_seconds_sum", model_name="m") == pytest.approx(1.0)
    assert value(metrics, "vllm:time_to_first_token_seconds_sum", model_name="m") == pytest.approx(0.02)
    assert value(metrics, "vllm:request_queue_time_seconds_sum", model_name="m") == pytest.approx(0.004)
    assert value(metrics, "vllm:request_prefill_time_seconds_sum", model_name="m") == pytest.approx(0.016)
    assert value(metrics, "vllm:request_decode_time_seconds_sum", model_name="m") == pytest.approx(0.98)
    assert value(metrics, "vllm:request_prompt_tokens_sum", model_name="m") == 7
    assert value(metrics, "vllm:request_generation_tokens_sum", model_name="m") == 3
    assert value(metrics, "vllm:inter_token_latency_seconds_bucket", model_name="m", le="0.0005") == 1
    assert value(metrics, "vllm:inter_token_latency_seconds_bucket", model_name="m", le="0.00025") == 0


def test_the_tokens_of_steps_are_a_histogram() -> None:
    steps = StepTokens().add(1).add(8).add(9).add(100_000)
    metrics = Metrics("m", lambda: replace(STATS, step_tokens=steps))
    name = "vllm:iteration_tokens_total"
    found = [
        value(metrics, f"{name}_bucket", model_name="m", le=le) for le in ("1.0", "8.0", "16.0", "16384.0", "+Inf")
    ]
    assert found == [1, 2, 3, 3, 4]
    assert value(metrics, f"{name}_count", model_name="m") == 4
    assert value(metrics, f"{name}_sum", model_name="m") == 100_018


def test_the_cache_is_described_in_labels() -> None:
    metrics = Metrics("m", lambda: STATS, {"block_size": "16"})
    assert value(metrics, "vllm:cache_config_info", model_name="m", block_size="16") == 1


def test_a_request_that_never_ran_has_no_first_token() -> None:
    metrics = Metrics("m", lambda: STATS)
    metrics.finished(FinishReason.ABORT, Usage(7, 0, 0), RequestTimes(10.0, finished=10.5))
    for name in ("time_to_first_token", "request_prefill_time", "request_decode_time"):
        assert value(metrics, f"vllm:{name}_seconds_count", model_name="m") == 0
    assert value(metrics, "vllm:e2e_request_latency_seconds_count", model_name="m") == 1


def test_refusals_and_aborts_are_counted() -> None:
    metrics = Metrics("m", lambda: STATS)
    metrics.rejected("queue_full")
    metrics.aborted()
    assert value(metrics, "routelm:requests_rejected_total", reason="queue_full") == 1
    assert value(metrics, "routelm:requests_rejected_total", reason="draining") == 0
    assert value(metrics, "routelm:requests_aborted_total") == 1
    assert value(metrics, "vllm:request_success_total", model_name="m", finished_reason="abort") == 1


@pytest.mark.parametrize(
    ("tokens", "idle"),
    [
        ((500, 500, 0, 0, 0, 0, 0, 0), 0.75),  # top-2 of 8, collapsed
        ((900, 74, 26, 20), 0.25),  # the mean is 255: 26 is more than a tenth of it
        ((100, 100, 100, 10), 0.0),
        ((0, 0, 0, 0), 0.0),  # nothing was routed yet
    ],
)
def test_experts_that_get_next_to_nothing_are_idle(tokens: tuple[int, ...], idle: float) -> None:
    metrics = Metrics("m", lambda: replace(STATS, layers=(LayerLoad(3, tokens, 1.0, 0.0),)))
    assert value(metrics, "routelm:moe_idle_experts_ratio", layer="3") == idle


@pytest.mark.parametrize(("layers", "shown"), [(4, True), (5, False)])
def test_the_number_of_expert_series_is_bounded(layers: int, shown: bool) -> None:
    experts = MAX_EXPERT_SERIES // 4
    wide = replace(STATS, layers=tuple(LayerLoad(n, (1,) * experts, 1.0, 0.0) for n in range(layers)))
    names = [name for name, _ in samples(Metrics("m", lambda: wide))]
    assert names.count("routelm:moe_expert_tokens_total") == (MAX_EXPERT_SERIES if shown else 0)
    assert names.count("routelm:moe_expert_share") == (MAX_EXPERT_SERIES if shown else 0)
    assert names.count("routelm:moe_routing_entropy") == layers
    assert names.count("routelm:moe_idle_experts_ratio") == layers


def test_two_applications_share_nothing() -> None:
    one, other = Metrics("m", lambda: STATS), Metrics("m", lambda: STATS)
    one.rejected("queue_full")
    assert value(other, "routelm:requests_rejected_total", reason="queue_full") == 0


def test_no_created_series_and_openmetrics_on_request() -> None:
    metrics = Metrics("m", lambda: STATS)
    text, content_type = metrics.exposition("text/plain")
    assert content_type.startswith("text/plain")
    assert b"_created" not in text
    text, content_type = metrics.exposition("application/openmetrics-text; version=1.0.0,text/plain;q=0.5")
    assert content_type.startswith("application/openmetrics-text")
    families = parse_openmetrics(text.decode())  # type: ignore[no-untyped-call]
    assert {"vllm:prompt_tokens", "routelm:moe_expert_tokens"} <= {family.name for family in families}

"""Beam search equals its plain definition, whatever runs beside it and however little memory there is."""

from collections.abc import Sequence as Tokens
from itertools import count

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.generate import sequence_hidden
from model.network import CausalLM
from server.engine.cache.layout import CacheLayout
from server.engine.config import EngineConfig
from server.engine.engine import Engine
from server.engine.scheduler import Scheduler
from server.engine.types import FinishReason, GenerateRequest
from tests.server.engine.beam.beam_oracle import beam_search
from tests.server.engine.simulated import VOCAB, SimulatedRunner, likeliest, simulated_decode
from tests.server.engine.tiny import (
    assert_memory_is_free,
    bytes_for,
    collect,
    engine_config,
    random_prompt,
    request,
    run,
)

EOS = frozenset({5})
BLOCK, MAX_LEN = 4, 24


def ask(name: str, prompt: Tokens[int], max_tokens: int, width: int, min_tokens: int = 0) -> GenerateRequest:
    return request(name, prompt, max_tokens, beam_width=width, min_tokens=min_tokens)


def simulate(asked: list[GenerateRequest], layout: CacheLayout) -> dict[str, tuple[int, ...]]:
    config = EngineConfig(
        MAX_LEN, EOS, max_num_seqs=layout.num_slots, max_num_batched_tokens=16, block_size=BLOCK, snapshot_interval=6
    )
    scheduler, runner = Scheduler(config, layout, clock=count(1.0).__next__), SimulatedRunner(layout)
    for each in asked:
        scheduler.add(each)
    outputs = []
    while scheduler.has_unfinished:
        batch = scheduler.schedule()
        assert not batch.is_empty
        outputs += scheduler.update(batch, *runner.step(scheduler, batch))
    assert scheduler.pool.cache.blocks.num_used == 0
    assert scheduler.pool.cache.states.num_free_slots == layout.num_slots
    assert not len(scheduler.beams)
    assert not any(each.request_id in scheduler.beams for each in asked)
    return {name: output.token_ids for name, output in collect(outputs).items()}


REQUESTS = st.lists(
    st.tuples(
        st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=8), st.integers(1, 10), st.sampled_from([1, 2, 3, 4])
    ),
    min_size=1,
    max_size=5,
)


@settings(max_examples=150)
@given(REQUESTS, st.integers(6, 60), st.integers(1, 9), st.booleans())
def test_any_mix_in_any_memory(
    wanted: list[tuple[list[int], int, int]], blocks: int, slots: int, has_state: bool
) -> None:
    asked = [ask(f"r{i}", prompt, tokens, width) for i, (prompt, tokens, width) in enumerate(wanted)]
    layout = CacheLayout(BLOCK, blocks, slots, 4 if has_state else 0, True, has_state)
    found = simulate(asked, layout)
    for each in asked:
        prompt, sampling = each.prompt_token_ids, each.sampling
        if sampling.beam_width == 1:
            expected = simulated_decode(prompt, sampling.max_tokens, EOS)
        else:
            expected = beam_search(likeliest, prompt, sampling.max_tokens, width=sampling.beam_width, ends=EOS)
        assert found[each.request_id] == expected


@pytest.mark.parametrize("least", [0, 1, 2, 4])
def test_an_answer_ends_after_the_least_tokens(least: int) -> None:
    layout = CacheLayout(BLOCK, 40, 9, 4, True, True)
    asked = [ask(f"r{i}", [i, i + 1], 8, 2 + i % 3, least) for i in range(12)]
    found = simulate(asked, layout)
    for each in asked:
        width = each.sampling.beam_width
        answer = beam_search(likeliest, each.prompt_token_ids, 8, width=width, ends=EOS, min_tokens=least)
        assert found[each.request_id] == answer
        assert len(answer) > least


def streams() -> list[GenerateRequest]:
    rng = np.random.default_rng(3)
    lengths = [int(length) for length in rng.integers(2, 40, 8)]
    return [ask(f"b{i}", random_prompt(rng, length), 6, 1 + i % 4) for i, length in enumerate(lengths)]


def by_definition(network: CausalLM, asked: GenerateRequest) -> tuple[int, ...]:
    def scores(prefix: tuple[int, ...], most: int) -> list[tuple[int, float]]:
        with torch.inference_mode():
            logprobs_V = network.logits(sequence_hidden(network, prefix)[-1:]).log_softmax(-1)[0]
        values, tokens = (x.tolist() for x in logprobs_V.topk(most))
        return sorted(zip(tokens, values, strict=True), key=lambda pair: (-pair[1], pair[0]))

    sampling = asked.sampling
    return beam_search(scores, asked.prompt_token_ids, sampling.max_tokens, width=sampling.beam_width, ends=())


@pytest.fixture(scope="module")
def expected(network: CausalLM) -> dict[str, tuple[int, ...]]:
    return {asked.request_id: by_definition(network, asked) for asked in streams()}


def test_a_real_network_in_a_batch(network: CausalLM, expected: dict[str, tuple[int, ...]]) -> None:
    engine = Engine(network, engine_config())
    assert {name: output.token_ids for name, output in run(engine, streams()).items()} == expected
    assert_memory_is_free(engine)


def test_a_real_network_short_of_memory(network: CausalLM, expected: dict[str, tuple[int, ...]]) -> None:
    changes = {"max_model_len": 64, "max_num_seqs": 5, "block_size": 4}
    budget = bytes_for(network, engine_config(**changes), blocks=24)
    engine = Engine(network, engine_config(**changes, cache_bytes=budget))
    assert {name: output.token_ids for name, output in run(engine, streams()).items()} == expected
    assert engine.stats().preemptions > 0
    assert_memory_is_free(engine)


def test_the_search_finds_what_greed_does_not(network: CausalLM, expected: dict[str, tuple[int, ...]]) -> None:
    """Negative control."""
    greedy = run(
        Engine(network, engine_config()), [request(each.request_id, each.prompt_token_ids, 6) for each in streams()]
    )
    assert any(greedy[name].token_ids != expected[name] for name in expected)


def test_a_search_tells_once_that_its_prompt_is_computed(network: CausalLM) -> None:
    """From then on admission does not count it as waiting."""
    engine, outputs = Engine(network, engine_config()), []
    engine.submit(ask("b", [5, 6, 7], 6, 3))
    while engine.has_unfinished:
        outputs += engine.step()
    told = [(output.finish_reason is None, bool(output.token_ids)) for output in outputs]
    assert told == [(True, False), (False, True)]


def test_an_aborted_search_leaves_nothing(network: CausalLM) -> None:
    engine = Engine(network, engine_config())
    for asked in streams():
        engine.submit(asked)
    for _ in range(4):
        engine.step()
    ends = [output for asked in streams() for output in engine.abort(asked.request_id)]
    assert all(output.finish_reason is FinishReason.ABORT for output in ends)
    assert {output.request_id for output in ends} == {asked.request_id for asked in streams()}
    assert not engine.has_unfinished
    assert_memory_is_free(engine)


def test_a_failed_step_ends_each_search_once(network: CausalLM) -> None:
    engine = Engine(network, engine_config())
    for asked in streams():
        engine.submit(asked)
    outputs = [*engine.step(), *engine.step(), *engine.fail_all()]
    assert sorted(output.request_id for output in outputs if output.finish_reason is FinishReason.ERROR) == [
        asked.request_id for asked in streams()
    ]
    assert_memory_is_free(engine)


@pytest.mark.parametrize("changes", [{"temperature": 1.0}, {"top_p": 0.5}, {"logprobs": 1}, {"beam_width": 9}])
def test_what_contradicts_a_search_is_refused(network: CausalLM, changes: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        Engine(network, engine_config()).submit(request("r", [3, 4], 5, **({"beam_width": 2} | changes)))

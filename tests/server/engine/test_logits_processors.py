"""Logits processors against plain definitions, and their independence of the other rows of a batch."""

from collections.abc import Sequence as Tokens
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from model.network import CausalLM
from server.engine.engine import Engine
from server.engine.logits_processors import FORBIDDEN, build_logits_processors
from server.engine.sampler import process_logits
from server.engine.sequence import Sequence
from server.engine.types import SamplingParams, ThinkingBudget
from tests.server.engine.tiny import drain, engine_config, oracle, random_prompt, request, run

EOS = frozenset({2})


def processed(logits_V: Tensor, sampling: SamplingParams, prompt: Tokens[int], output: Tokens[int]) -> Tensor:
    """The logits of the token after `output`, which was appended token by token."""
    processors = build_logits_processors(sampling, prompt, EOS)
    for token in output:
        for processor in processors:
            processor.advance((token,))
    changed_V = logits_V.clone()
    for processor in processors:
        if processor.is_active:
            processor.apply(changed_V)
    return changed_V


def by_definition(logits_V: Tensor, sampling: SamplingParams, prompt: Tokens[int], output: Tokens[int]) -> Tensor:
    """The same over the whole vocabulary, computed anew."""
    scores_V = logits_V.clone()
    if sampling.repetition_penalty != 1.0:
        seen = torch.tensor(sorted({*prompt, *output}))
        old = scores_V[seen]
        scores_V[seen] = torch.where(old > 0, old / sampling.repetition_penalty, old * sampling.repetition_penalty)
    counts_V = torch.bincount(torch.tensor(output, dtype=torch.int64), minlength=len(scores_V)).float()
    scores_V -= sampling.frequency_penalty * counts_V + sampling.presence_penalty * (counts_V > 0)
    for token, bias in sampling.logit_bias:
        scores_V[token] += bias
    if sampling.allowed_token_ids:
        forbidden = sorted(set(range(len(scores_V))) - set(sampling.allowed_token_ids))
        scores_V[forbidden] = FORBIDDEN
    for *before, last in sampling.bad_words:
        if list(output)[len(output) - len(before) :] == before:
            scores_V[last] = FORBIDDEN
    if len(output) < sampling.min_tokens:
        scores_V[sorted(EOS | sampling.stop_token_ids)] = 2 * FORBIDDEN
    return scores_V


WAYS: list[dict[str, Any]] = [
    {},
    {"repetition_penalty": 1.3},
    {"frequency_penalty": 0.7},
    {"presence_penalty": 0.1},
    {"repetition_penalty": 0.8, "frequency_penalty": -0.3, "presence_penalty": 1.9},
    {"logit_bias": ((5, 2.5), (1, -100.0))},
    {"min_tokens": 12, "stop_token_ids": frozenset({7})},
    {"allowed_token_ids": (3, 5, 7)},
    {"allowed_token_ids": (2,), "min_tokens": 3},
    {"bad_words": ((4,), (6, 5), (1, 2, 3))},
    {"repetition_penalty": 1.1, "frequency_penalty": 0.2, "logit_bias": ((3, 0.1),), "min_tokens": 40},
]


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("length", [0, 1, 11, 12, 30, 300])
def test_logits_equal_the_definition_to_the_bit(way: dict[str, Any], length: int) -> None:
    rng = np.random.default_rng(length)
    prompt, output = rng.integers(0, 40, 9).tolist(), rng.integers(0, 40 if length < 100 else 101, length).tolist()
    logits_V = torch.randn(101, generator=torch.Generator().manual_seed(length)) * 3
    sampling = SamplingParams(50, **way)
    expected = by_definition(logits_V, sampling, prompt, output)
    assert torch.equal(processed(logits_V, sampling, prompt, output), expected)
    if length == 11:
        assert torch.equal(expected, logits_V) == (not way), "the comparison must be of changed logits"


def test_penalties_by_hand() -> None:
    sampling = SamplingParams(
        9, repetition_penalty=2.0, frequency_penalty=0.25, presence_penalty=0.5, logit_bias=((7, 1.5),)
    )
    logits = torch.tensor([1.0, 1.0, 1.0, 1.0, 4.0, -2.0, 3.0, 1.0])
    changed = processed(logits, sampling, [4], [5, 5, 6]).tolist()
    assert changed == [1.0, 1.0, 1.0, 1.0, 2.0, -4.0 - 0.5 - 0.5, 1.5 - 0.25 - 0.5, 2.5]


def test_penalties_follow_the_output_step_by_step() -> None:
    """Each step equals a processor that is built for all tokens so far; repeated tokens count once."""
    sampling = SamplingParams(9, repetition_penalty=1.3)
    prompt, output = [3, 4, 4], [7, 3, 7, 9]
    (processor,) = build_logits_processors(sampling, prompt, EOS)
    for step, token_id in enumerate(output):
        logits_V = torch.randn(12, generator=torch.Generator().manual_seed(step))
        expected = by_definition(logits_V, sampling, prompt, output[:step])
        processor.apply(logits_V)
        assert torch.equal(logits_V, expected)
        processor.advance((token_id,))


def test_processors_change_the_row_of_their_sequence_only() -> None:
    asked = request("r", [3, 4], 9, logit_bias=((1, 5.0),))
    made = Sequence(asked, 0, 0, 0.0, build_logits_processors(asked.sampling, [3, 4], EOS))
    plain = Sequence(request("s", [3, 4], 9), 1, 0, 0.0)
    logits_RV = torch.zeros(3, 8)
    process_logits(logits_RV, [plain, made], [0, 2])
    assert logits_RV.nonzero().tolist() == [[2, 1]]
    assert logits_RV[2, 1] == 5.0


def test_a_processor_that_is_done_is_dropped() -> None:
    """Otherwise every later step would call it for no reason."""
    asked = request("r", [3, 4], 9, min_tokens=2)
    made = Sequence(asked, 0, 0, 0.0, build_logits_processors(asked.sampling, [3, 4], EOS))
    made.append((5,))
    assert len(made.logits_processors) == 1
    made.append((5,))
    assert not made.logits_processors


class Forbid:
    """A processor that the engine does not have: it forbids some tokens."""

    is_active = True

    def __init__(self, *token_ids: int) -> None:
        self.token_ids = list(token_ids)

    def apply(self, logits_V: Tensor) -> None:
        logits_V[self.token_ids] = float("-inf")

    def advance(self, token_ids: Tokens[int]) -> None:
        pass


def test_a_forbidden_token_never_comes_and_the_neighbours_keep_their_bits(network: CausalLM) -> None:
    rng = np.random.default_rng(5)
    requests = [
        request(f"r{i}", random_prompt(rng, 12), 10, seed=i, temperature=float(i % 2), logprobs=3) for i in range(6)
    ]
    free = {asked.request_id: oracle(network, asked) for asked in requests}
    forbidden = set(free["r2"][:4])
    alone = Engine(network, engine_config())
    for asked in requests:
        alone.submit(asked)
    plain = drain(alone)
    engine = Engine(network, engine_config())
    for asked in requests:
        engine.submit(asked)
    engine.scheduler.pool.by_id["r2"].logits_processors = (Forbid(*forbidden),)
    results = drain(engine)
    assert forbidden.isdisjoint(results["r2"].token_ids)
    assert len(results["r2"].token_ids) == 10
    for name in ("r0", "r1", "r3", "r4", "r5"):
        assert results[name].token_ids == free[name]
        assert results[name].logprobs == plain[name].logprobs


def thinking(max_tokens: int, *, is_open: bool = False) -> SamplingParams:
    budget = ThinkingBudget(max_tokens, open=() if is_open else (7,), close=(8, 9), forced=(5, 8, 9))
    return SamplingParams(max_tokens=20, thinking_budget=budget)


def forced_token(sampling: SamplingParams, output: Tokens[int]) -> int | None:
    """The only token that may come after the output; None if any may."""
    changed_V = processed(torch.zeros(10), sampling, [1], output)
    allowed = [token for token, logit in enumerate(changed_V.tolist()) if logit > FORBIDDEN / 2]
    return allowed[0] if len(allowed) == 1 else None


@pytest.mark.parametrize(
    ("sampling", "output", "expected"),
    [
        (thinking(2, is_open=True), [], None),
        (thinking(2, is_open=True), [1, 1], 5),
        (thinking(2, is_open=True), [1, 1, 5], 8),
        (thinking(2, is_open=True), [1, 1, 5, 8], 9),
        (thinking(2, is_open=True), [1, 1, 5, 8, 9], None),
        (thinking(3, is_open=True), [8, 9, 1, 1, 1, 1], None),  # it has ended by itself
        (thinking(2), [1, 1, 1, 1], None),  # it has not begun
        (thinking(2), [1, 7, 1], None),
        (thinking(2), [1, 7, 1, 1], 5),
        (thinking(0), [7], 5),
        (thinking(0, is_open=True), [], 5),
    ],
)
def test_a_thinking_budget(sampling: SamplingParams, output: list[int], expected: int | None) -> None:
    assert forced_token(sampling, output) == expected


def test_a_thinking_budget_in_the_engine(network: CausalLM) -> None:
    prompt = random_prompt(np.random.default_rng(5), 12)
    plain = run(Engine(network, engine_config()), [request("r", prompt, 8)])["r"].token_ids
    budget = ThinkingBudget(2, open=(plain[0],), close=(8, 9), forced=(8, 9))
    limited = run(Engine(network, engine_config()), [request("r", prompt, 8, thinking_budget=budget)])["r"].token_ids
    assert limited[:5] == (*plain[:3], 8, 9)
    assert len(limited) == 8

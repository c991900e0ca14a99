"""The sampler against plain definitions, and its independence of the batch."""

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from server.engine.logits_processors import build_logits_processors
from server.engine.sampler import draw, filter_threshold, gumbel, gumbel_noise, sample, token_logprobs
from server.engine.sequence import Sequence
from server.engine.types import SamplingParams
from tests.server.engine.tiny import request

EOS = 2


def sequence(*output: int, prompt: tuple[int, ...] = (3, 4), seed: int = 0, **sampling: Any) -> Sequence:
    """A sequence that has generated `output`; greedy unless told otherwise."""
    asked = request("r", prompt, 50, **sampling)
    processors = build_logits_processors(asked.sampling, prompt, frozenset({EOS}))
    made = Sequence(asked, number=0, seed=seed, arrival=0.0, logits_processors=processors)
    made.append(output)
    return made


def params(**changes: Any) -> SamplingParams:
    return SamplingParams(max_tokens=1, **changes)


def random_logits(rows: int, vocabulary: int = 300, seed: int = 0, scale: float = 3.0) -> Tensor:
    return torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed)) * scale


def chosen(logits_V: list[float], made: Sequence) -> int:
    return sample(torch.tensor([logits_V]), [made]).token_ids[0][0]


def plainly_likely(logits: list[float], sampling: SamplingParams) -> set[int]:
    """The tokens that top_k, then top_p, then min_p leave: by sorting, in double precision."""
    order = sorted(range(len(logits)), key=lambda i: -logits[i])
    if sampling.top_k:
        order = order[: sampling.top_k]
    weights = {i: math.exp(logits[i] - logits[order[0]]) for i in order}
    total, before, kept = sum(weights.values()), 0.0, []
    for i in order:
        if sampling.top_p < 1 and before / total >= sampling.top_p:
            break
        kept.append(i)
        before += weights[i]
    return {i for i in kept if weights[i] >= sampling.min_p}


def test_greedy_takes_the_highest_and_of_equals_the_first() -> None:
    assert chosen([0.0, 3.0, 1.0, 3.0], sequence()) == 1


@given(
    seed=st.integers(0, 10**6),
    top_k=st.sampled_from([0, 1, 5, 200, 1000]),
    top_p=st.sampled_from([0.05, 0.5, 0.9, 0.999, 1.0]),
    min_p=st.sampled_from([0.0, 0.01, 0.3]),
    scale=st.sampled_from([0.1, 1.0, 5.0]),
)
def test_filters_keep_what_the_definition_keeps(
    seed: int, top_k: int, top_p: float, min_p: float, scale: float
) -> None:
    way = params(top_k=top_k, top_p=top_p, min_p=min_p)
    logits = random_logits(1, seed=seed, scale=scale)[0].numpy()
    scores = logits - logits.max()
    kept = set((scores >= filter_threshold(scores, way)).nonzero()[0].tolist())
    differing = kept ^ plainly_likely(logits.tolist(), way)
    assert len(differing) <= (way.top_p < 1), "only the last token of the nucleus may differ, by rounding"


def test_equal_tokens_at_the_edge_are_all_kept() -> None:
    scores = np.array([-1.0, 0.0, -1.0, -1.0, -2.0], dtype=np.float32)
    assert (scores >= filter_threshold(scores, params(top_k=2))).tolist() == [True, True, True, True, False]


@pytest.mark.parametrize("way", [{}, {"top_k": 3}, {"top_p": 0.6}, {"min_p": 0.2}, {"temperature": 0.5}], ids=str)
def test_frequencies_follow_the_distribution(way: dict[str, Any]) -> None:
    logits = np.array([1.0, 0.0, 2.0, -1.0, 0.5], dtype=np.float32)
    sampling = params(**way)
    scaled = (logits / sampling.temperature).tolist()
    kept = plainly_likely(scaled, sampling)
    weights = [math.exp(x) if token in kept else 0.0 for token, x in enumerate(scaled)]
    draws = 4000
    counts = Counter(draw(logits, sampling, seed=seed, position=3) for seed in range(draws))
    for token, weight in enumerate(weights):
        share = weight / sum(weights)
        assert abs(counts[token] / draws - share) <= 4 * math.sqrt(share * (1 - share) / draws)


def test_noise_is_finite_and_its_positions_are_unrelated() -> None:
    noise = np.stack([gumbel_noise(seed, position, 20_000) for seed in (0, 2**63) for position in (0, 1, 2)])
    assert np.isfinite(noise).all()
    assert abs(noise.mean() - np.euler_gamma) < 0.02
    assert abs(noise.var() - math.pi**2 / 6) < 0.05
    assert np.abs(np.corrcoef(noise) - np.eye(len(noise))).max() < 0.03
    shifted = np.corrcoef(noise[0][4:], noise[1][:-4])[0, 1]  # counters that overlap would show here
    assert abs(shifted) < 0.03


def test_noise_is_of_seed_and_position_alone() -> None:
    noise = gumbel_noise(5, 9, 40)
    assert (noise == gumbel_noise(5, 9, 40)).all()
    assert (noise != gumbel_noise(5, 10, 40)).all()
    assert (noise != gumbel_noise(6, 9, 40)).all()
    assert (noise == gumbel_noise(5, 9, 80)[:40]).all()


def test_noise_is_finite_at_both_ends_of_the_generator() -> None:
    """The largest number below 1 was once rounded to 1, which made the noise of one token in two thousand infinite."""
    ends = gumbel(np.array([0.0, 1 - 2.0**-24, 0.5], dtype=np.float32))
    assert np.isfinite(ends).all()
    assert ends[0] < ends[2] < ends[1]


@pytest.mark.parametrize("more", [{}, {"logit_bias": ((0, 0.25),)}], ids=str)
def test_min_tokens_forbids_ends_until_it_is_reached(more: dict[str, Any]) -> None:
    logits = [0.0, 1.0, 9.0, 8.0]
    way: dict[str, Any] = {"min_tokens": 2, "stop_token_ids": frozenset({3})} | more
    assert [chosen(logits, sequence(*[1] * length, **way)) for length in range(3)] == [1, 1, 2]


def test_logprobs_are_those_of_the_model_before_any_change() -> None:
    logits = random_logits(1)
    made = sequence(temperature=0.1, logit_bias=((7, 100.0),), top_k=1, logprobs=4)
    (entry,) = sample(logits, [made]).logprobs[0]
    expected = logits[0].double().log_softmax(-1)
    assert entry.token_id == 7
    assert entry.logprob == pytest.approx(expected[7].item(), abs=1e-5)
    best = expected.topk(4)
    assert [token for token, _ in entry.top] == best.indices.tolist()
    assert [logprob for _, logprob in entry.top] == pytest.approx(best.values.tolist(), abs=1e-5)


def test_logprobs_only_where_asked() -> None:
    sequences = [sequence(), sequence(logprobs=0), sequence(logprobs=2)]
    found = sample(random_logits(3), sequences).logprobs
    assert {row: len(entry.top) for row, (entry,) in found.items()} == {1: 0, 2: 2}


def test_equal_logprobs_are_told_in_the_order_of_their_ids() -> None:
    (entry,) = token_logprobs(torch.zeros(1, 4), [3], [4])
    assert [token for token, _ in entry.top] == [0, 1, 2, 3]


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), float("-inf")])
def test_rows_that_are_no_numbers_are_reported(wrong: float) -> None:
    logits = random_logits(3)
    logits[1, 50] = wrong
    sequences = [sequence(temperature=1.0), sequence(temperature=1.0), sequence()]
    alone = [sample(logits[row : row + 1], [sequences[row]]).token_ids[0] for row in (0, 2)]
    for number, made in enumerate(sequences):
        made.request_id = f"r{number}"
    together = sample(logits, sequences)
    assert together.failed == {"r1"}
    assert [together.token_ids[0], together.token_ids[2]] == alone


WAYS: list[dict[str, Any]] = [
    {},
    {"temperature": 1.0},
    {"temperature": 0.3, "top_p": 0.9},
    {"temperature": 2.0, "top_k": 7},
    {"temperature": 1.5, "min_p": 0.05, "repetition_penalty": 1.3},
    {"temperature": 1.0, "top_k": 250, "top_p": 0.999, "frequency_penalty": 0.7},
]


@pytest.mark.parametrize("vocabulary", [101, 128, 1003, 40_001])
def test_a_row_gives_the_same_bits_alone_and_among_others(vocabulary: int) -> None:
    count = 13
    logits = random_logits(count, vocabulary)
    sequences = [sequence(9, 9, 11, seed=i, logprobs=5, **WAYS[i % len(WAYS)]) for i in range(count)]
    together = sample(logits, sequences)
    for row, made in enumerate(sequences):
        alone = sample(logits[row : row + 1].clone(), [made])
        assert alone.token_ids[0] == together.token_ids[row]
        assert alone.logprobs[0] == together.logprobs[row]


@pytest.mark.parametrize("temperature", [1e-300, 1e-30, 1e-5])
def test_a_temperature_near_zero_is_greedy(temperature: float) -> None:
    logits = random_logits(4)
    sequences = [sequence(temperature=temperature, seed=seed) for seed in range(4)]
    assert sample(logits, sequences).token_ids == [(token,) for token in logits.argmax(-1).tolist()]


def test_noise_of_a_position_is_as_far_on_in_the_generator_as_the_high_word_says() -> None:
    for position in (0, 1, 9):
        generator = np.random.Philox(key=5)
        generator.advance(position << 192)
        expected = gumbel(np.random.Generator(generator).random(40, dtype=np.float32))
        assert (gumbel_noise(5, position, 40) == expected).all()

"""Sampling: the definition against plain probabilities, and the compiled kernel against the definition."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from model import kernels
from model.kernels import sampling_reference
from model.kernels.cpu import inference
from model.kernels.sampling_reference import filter_threshold, gumbel, gumbel_noise
from model.kernels.types import RowSampling

Sample = Callable[[Tensor, Sequence[RowSampling]], Tensor]
compiled_only = pytest.mark.skipif(not kernels.compiled(), reason="there are no compiled kernels")
at_every_level = pytest.mark.usefixtures("kernel_target")
VERSIONS = [sampling_reference.sample, pytest.param(inference.sample, marks=compiled_only)]

filters = st.builds(
    RowSampling,
    temperature=st.sampled_from([0.0, 0.3, 1.0, 2.0]),
    top_k=st.sampled_from([0, 1, 5, 200, 1000]),
    top_p=st.sampled_from([0.05, 0.5, 0.9, 0.999, 1.0]),
    min_p=st.sampled_from([0.0, 0.01, 0.3]),
    seed=st.integers(0, 2**64 - 1),
    position=st.integers(0, 2**40),
)


def how(**changes: Any) -> RowSampling:
    return RowSampling(1.0, 0, 1.0, 0.0, 0, 0)._replace(**changes)


def random_scores(rows: int, vocabulary: int = 300, seed: int = 0, scale: float = 3.0) -> Tensor:
    return torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed)) * scale


def plainly_likely(scores: list[float], way: RowSampling) -> set[int]:
    """The tokens that top_k, then top_p, then min_p leave: by sorting, in double precision."""
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    if way.top_k:
        order = order[: way.top_k]
    weights = {i: math.exp(scores[i] - scores[order[0]]) for i in order}
    total, before, kept = sum(weights.values()), 0.0, []
    for i in order:
        if way.top_p < 1 and before / total >= way.top_p:
            break
        kept.append(i)
        before += weights[i]
    return {i for i in kept if weights[i] >= way.min_p}


def noisy_scores(scores_V: Tensor, way: RowSampling) -> NDArray[np.float32]:
    """What a draw takes the highest of, by the definition; -inf for tokens that the filters drop."""
    scaled = ((scores_V - scores_V.max()) / way.temperature).numpy()
    noisy: NDArray[np.float32] = scaled + gumbel_noise(way.seed, way.position, len(scaled))
    noisy[scaled < filter_threshold(scaled, way)] = -np.inf
    return noisy


# The definition


@given(seed=st.integers(0, 10**6), way=filters, scale=st.sampled_from([0.1, 1.0, 5.0]))
def test_filters_keep_what_plain_probabilities_keep(seed: int, way: RowSampling, scale: float) -> None:
    logits = random_scores(1, seed=seed, scale=scale)[0].numpy()
    scores = logits - logits.max()
    kept = set((scores >= filter_threshold(scores, way)).nonzero()[0].tolist())
    differing = kept ^ plainly_likely(logits.tolist(), way)
    assert len(differing) <= (way.top_p < 1), "only the last token of the nucleus may differ, by rounding"


def test_equal_tokens_at_the_edge_are_all_kept() -> None:
    scores = np.array([-1.0, 0.0, -1.0, -1.0, -2.0], dtype=np.float32)
    assert (scores >= filter_threshold(scores, how(top_k=2))).tolist() == [True, True, True, True, False]


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


def test_noise_of_a_position_is_as_far_on_in_the_generator_as_the_high_word_says() -> None:
    for position in (0, 1, 9):
        generator = np.random.Philox(key=5)
        generator.advance(position << 192)
        expected = gumbel(np.random.Generator(generator).random(40, dtype=np.float32))
        assert (gumbel_noise(5, position, 40) == expected).all()


def test_noise_is_finite_at_both_ends_of_the_generator() -> None:
    """The largest number below 1 was once rounded to 1, which made the noise of one token in two thousand infinite."""
    ends = gumbel(np.array([0.0, 1 - 2.0**-24, 0.5], dtype=np.float32))
    assert np.isfinite(ends).all()
    assert ends[0] < ends[2] < ends[1]


# Both versions


@pytest.mark.parametrize("sample", VERSIONS)
@pytest.mark.parametrize("way", [{}, {"top_k": 3}, {"top_p": 0.6}, {"min_p": 0.2}, {"temperature": 0.5}], ids=str)
def test_frequencies_follow_the_distribution(sample: Sample, way: dict[str, Any]) -> None:
    scores_V, draws = torch.tensor([1.0, 0.0, 2.0, -1.0, 0.5]), 4000
    scaled = (scores_V / how(**way).temperature).tolist()
    kept = plainly_likely(scaled, how(**way))
    weights = [math.exp(x) if token in kept else 0.0 for token, x in enumerate(scaled)]
    rows = [how(**way, seed=seed, position=3) for seed in range(draws)]
    counts = Counter(sample(scores_V.expand(draws, -1), rows).tolist())
    for token, weight in enumerate(weights):
        share = weight / sum(weights)
        assert abs(counts[token] / draws - share) <= 4 * math.sqrt(share * (1 - share) / draws)


@pytest.mark.parametrize("sample", VERSIONS)
def test_a_temperature_of_0_takes_the_highest_and_of_equals_the_first(sample: Sample) -> None:
    scores_RV = torch.tensor([[0.0, 3.0, 1.0, 3.0], [-math.inf, -math.inf, -2.0, -math.inf]])
    assert sample(scores_RV, [how(temperature=0.0)] * 2).tolist() == [1, 2]


# The compiled kernel


@at_every_level
@given(
    way=filters,
    vocabulary=st.sampled_from([1, 7, 16, 300, 5000]),
    scale=st.sampled_from([0.0, 0.1, 1.0, 5.0, 40.0]),
    masked=st.booleans(),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=300)
def test_a_draw_equals_its_definition(way: RowSampling, vocabulary: int, scale: float, masked: bool, seed: int) -> None:
    scores_V = random_scores(1, vocabulary, seed, scale)[0]
    if masked:
        scores_V[1::2] = -math.inf
    token = int(inference.sample(scores_V[None], [way]))
    expected = int(sampling_reference.sample(scores_V[None], [way]))
    if way.temperature and token != expected:  # by rounding alone
        noisy = noisy_scores(scores_V, way._replace(top_p=min(1.0, way.top_p + 1e-5)))
        assert noisy[token] >= noisy.max() - 1e-4
    else:
        assert token == expected


@at_every_level
def test_another_seed_position_or_word_draws_other_tokens() -> None:
    """The control of the test above: draws from flat scores are all noise."""
    scores_RV = torch.zeros(1, 5000)
    ways = [how(), how(seed=1), how(seed=2**32), how(position=1), how(position=2**33)]
    drawn = [int(inference.sample(scores_RV, [way])) for way in ways]
    assert len(set(drawn)) == len(ways)
    assert drawn == [int(sampling_reference.sample(scores_RV, [way])) for way in ways]


@at_every_level
@pytest.mark.parametrize("vocabulary", [101, 128, 1003, 40_001])
def test_a_row_gives_the_same_token_alone_and_among_others(vocabulary: int) -> None:
    scores_RV = random_scores(13, vocabulary)
    ways = [how(), how(temperature=0.0), how(top_p=0.9), how(top_k=7, temperature=2.0), how(min_p=0.05)]
    rows = [ways[row % len(ways)]._replace(seed=row) for row in range(len(scores_RV))]
    alone = [int(inference.sample(scores_RV[row : row + 1].clone(), [way])) for row, way in enumerate(rows)]
    assert inference.sample(scores_RV, rows).tolist() == alone


@at_every_level
@pytest.mark.parametrize("way", [how(temperature=0.0), how(), how(top_p=0.9), how(top_k=5), how(min_p=0.1)], ids=str)
@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_scores_that_are_no_numbers_harm_their_own_row_only(way: RowSampling, wrong: float) -> None:
    scores_RV = random_scores(3)
    expected = inference.sample(scores_RV, [way] * 3)
    scores_RV[1] = wrong
    drawn = inference.sample(scores_RV, [way] * 3)
    assert drawn[::2].tolist() == expected[::2].tolist()
    assert 0 <= drawn[1] < 300


@at_every_level
@given(rows=st.integers(1, 5), width=st.integers(1, 600), data=st.data())
@settings(max_examples=40)
def test_the_highest_score_equals_its_definition(rows: int, width: int, data: st.DataObject) -> None:
    """The first of equals, among infinities, too."""
    scores_RV = torch.randint(-9, data.draw(st.sampled_from([-7, 10])), (rows, width)).float()
    scores_RV[data.draw(st.integers(0, rows - 1)), width // 2 :] = float("-inf")
    greedy = [how(temperature=0.0)] * rows
    assert torch.equal(inference.sample(scores_RV, greedy), sampling_reference.sample(scores_RV, greedy))

"""Mixtures: shares of parts, square roots of sizes inside, factors on top."""

import pytest

from model.training.data.mixture import Mixture, MixturePart

PARTS = (MixturePart("a", 0.75, ("a/*",)), MixturePart("b", 0.25, ("b/one", "b/two")))


def test_sources_share_by_the_square_root_of_their_size() -> None:
    shares = Mixture(PARTS).source_shares({"a/x": 100, "a/y": 400, "b/one": 7, "c/z": 9})
    assert shares == pytest.approx({"a/x": 0.25, "a/y": 0.5, "b/one": 0.25})


def test_the_first_matching_factor_counts() -> None:
    mixture = Mixture(PARTS, factors=(("a/x", 4.0), ("a/*", 2.0)))
    assert mixture.source_shares({"a/x": 1, "a/y": 1, "b/one": 1}) == pytest.approx(
        {"a/x": 0.5, "a/y": 0.25, "b/one": 0.25}
    )


def test_a_part_without_sources_leaves_its_share_to_the_others() -> None:
    assert Mixture(PARTS).source_shares({"b/one": 5}) == {"b/one": 1.0}
    with pytest.raises(ValueError, match="no source fits the mixture"):
        Mixture(PARTS).source_shares({"c/z": 5})

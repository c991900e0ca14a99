"""Shingles of many texts at once are those of each text alone; MinHash estimates their similarity."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.training.data.shingles import Vocabulary, band_keys, is_chinese, jaccard, min_hashes, normalize, shingles

TEXTS = st.lists(st.lists(st.integers(0, 5), max_size=8), max_size=6)


@given(TEXTS, st.integers(1, 4))
def test_equal_runs_have_equal_hashes_and_others_have_not(texts: list[list[int]], size: int) -> None:
    hashes, owners = shingles(texts, size)
    runs = [(tuple(text[i : i + size]), n) for n, text in enumerate(texts) for i in range(len(text) - size + 1)]
    assert owners.tolist() == [owner for _, owner in runs]
    by_run = {run: value for (run, _), value in zip(runs, hashes.tolist(), strict=True)}
    assert [by_run[run] for run, _ in runs] == hashes.tolist()
    assert len(set(by_run.values())) == len(by_run)


@pytest.mark.parametrize("shared", [50, 90])
def test_min_hashes_agree_as_often_as_the_texts_are_alike(shared: int) -> None:
    first, second = list(range(100)), [*range(shared), *range(1000, 1100 - shared)]
    hashes, owners = shingles([first, second, []], 1)
    signatures = min_hashes(hashes, owners, 3, 400)
    alike = jaccard(hashes[owners == 0], hashes[owners == 1])
    assert alike == pytest.approx(shared / (200 - shared))
    assert np.mean(signatures[0] == signatures[1]) == pytest.approx(alike, abs=0.08)
    assert set(signatures[2].tolist()) == {2**64 - 1}


def test_bands_are_equal_where_all_their_signatures_are() -> None:
    signatures = np.array([[1, 2, 3, 4], [1, 2, 3, 5], [3, 4, 1, 2]], np.uint64)
    keys = band_keys(signatures, 2)
    assert (keys[0] == keys[1]).tolist() == [True, False]
    assert keys[0, 0] != keys[2, 1]  # the same signatures in another band


def test_units_are_words_or_characters_of_chinese() -> None:
    vocabulary = Vocabulary()
    assert vocabulary.units(normalize("The cat, the DOG!")) == [0, 1, 0, 2]
    assert len(vocabulary.units(normalize("我有３只猫。"))) == 5
    assert is_chinese("我有 cats")
    assert not is_chinese("chats")

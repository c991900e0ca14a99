"""Batches of sequences: all of them, none twice, no more tokens than there is room for."""

from hypothesis import given
from hypothesis import strategies as st

from benchmarks.routing_study.rectangles import CHUNK, groups, padded_length, rectangle


@given(st.lists(st.integers(1, 60), max_size=40))
def test_every_sequence_is_in_one_batch_that_fits(lengths: list[int]) -> None:
    found = list(groups(lengths, batch_tokens=128))
    assert sorted(index for group in found for index in group) == list(range(len(lengths)))
    assert all(len(group) * padded_length(max(lengths[i] for i in group)) <= 128 for group in found)


def test_a_sequence_that_is_too_long_goes_alone() -> None:
    assert list(groups([200, 5], batch_tokens=64)) == [[1], [0]]


def test_rows_are_filled_up_to_whole_chunks() -> None:
    filled = rectangle([[1, 2, 3], [4]], fill=-1)
    assert filled.shape == (2, CHUNK)
    assert filled[1].tolist() == [4, *[-1] * (CHUNK - 1)]
    assert rectangle([[1] * CHUNK]).shape == (1, CHUNK)

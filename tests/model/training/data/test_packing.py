"""Packed rows: every example whole and alone, hardly any padding, the same batches again, exact resume."""

import json
from collections import Counter
from pathlib import Path

import pytest
import torch

from model.training.data.collate import TrainingBatch
from model.training.data.mixture import Mixture, MixturePart
from model.training.data.packing import PackedStream, Prefetched, pack

MIXTURE = Mixture((MixturePart("all", 1.0, ("*",)),))
TOKENS, LENGTH = 4096, 512


def stream(prepared_dir: Path, seed: int = 1) -> PackedStream:
    return PackedStream(prepared_dir, MIXTURE, seed=seed, batch_tokens=TOKENS, row_tokens=LENGTH)


def equal(ours: TrainingBatch, theirs: TrainingBatch) -> bool:
    pairs = zip(tensors(ours), tensors(theirs), strict=True)
    return ours.sources == theirs.sources and all(torch.equal(a, b) for a, b in pairs)


def tensors(batch: TrainingBatch) -> list[torch.Tensor]:
    assert batch.positions_BL is not None
    return [batch.token_ids_BL, batch.targets_BL, batch.weights_BL, batch.noise_BL, batch.positions_BL]


def test_examples_are_whole_and_do_not_overlap() -> None:
    examples = [("a", n, 1 + n * 7 % 60) for n in range(100)]
    places, left = pack(examples, rows=8, length=100)
    lengths = {index: length for _, index, length in examples}
    taken = Counter((place.row, place.start + n) for place in places for n in range(lengths[place.example]))
    assert max(taken.values()) == 1
    assert all(row in range(8) and column in range(100) for row, column in taken)
    assert sorted([place.example for place in places] + [index for _, index, _ in left]) == list(range(100))


def test_hardly_any_position_is_padding(prepared_dir: Path) -> None:
    batches = stream(prepared_dir)
    assert min(float(next(batches).real_BL.float().mean()) for _ in range(5)) > 0.95


def test_an_example_in_a_row_is_what_was_prepared(prepared_dir: Path) -> None:
    batches = stream(prepared_dir)
    batch = next(batches)
    assert batch.positions_BL is not None
    starts = ((batch.positions_BL == 0) & batch.real_BL).nonzero().tolist()
    assert len(starts) == len(batch.sources)
    known = {
        tuple(source.example(index).token_ids.tolist())
        for source in batches.sampler.sources.values()
        for index in range(len(source))
    }
    for row, start in starts:
        size = next(n for n in range(start + 1, LENGTH + 1) if n == LENGTH or batch.positions_BL[row, n] == 0) - start
        size = min(size, int(batch.real_BL[row, start:].sum()))
        ids = [*batch.token_ids_BL[row, start : start + size].tolist(), int(batch.targets_BL[row, start + size - 1])]
        assert tuple(ids) in known


def test_the_same_seed_gives_the_same_batches_and_another_seed_others(prepared_dir: Path) -> None:
    ours, theirs, others = stream(prepared_dir), stream(prepared_dir), stream(prepared_dir, seed=2)
    for _ in range(3):
        batch = next(ours)
        assert equal(batch, next(theirs))
        assert not equal(batch, next(others))


def test_a_resumed_stream_goes_on_exactly(prepared_dir: Path) -> None:
    original, resumed = stream(prepared_dir), stream(prepared_dir)
    for _ in range(3):
        next(original)
    resumed.load_state_dict(json.loads(json.dumps(original.state_dict())))
    assert all(equal(next(original), next(resumed)) for _ in range(3))


def test_batches_made_ahead_are_the_same_and_resume_after_those_taken(prepared_dir: Path) -> None:
    plain = [stream(prepared_dir, seed) for seed in (1, 2)]
    ahead = Prefetched([stream(prepared_dir, seed) for seed in (1, 2)])
    for turn in range(3):
        assert equal(next(ahead), next(plain[turn % 2]))
    resumed = Prefetched([stream(prepared_dir, seed) for seed in (1, 2)])
    resumed.load_state_dict(json.loads(json.dumps(ahead.state_dict())))
    assert equal(next(resumed), next(plain[1]))


def test_states_of_other_streams_are_refused(prepared_dir: Path) -> None:
    with pytest.raises(ValueError, match="packed rows"):
        stream(prepared_dir).load_state_dict({"waiting": {"24": []}})
    with pytest.raises(ValueError, match="streams"):
        Prefetched([stream(prepared_dir)]).load_state_dict({"waiting": []})


def test_a_batch_that_cannot_hold_one_row_is_refused(prepared_dir: Path) -> None:
    with pytest.raises(ValueError, match="does not hold one row"):
        PackedStream(prepared_dir, MIXTURE, seed=1, batch_tokens=100)


def test_an_example_that_is_longer_than_a_row_is_refused(prepared_dir: Path) -> None:
    """It would wait for ever for a row that holds it."""
    batches = PackedStream(prepared_dir, MIXTURE, seed=1, batch_tokens=64, row_tokens=8)
    with pytest.raises(ValueError, match=r"has an example of \d+ tokens: rows of 8 hold 9 at most"):
        next(batches)

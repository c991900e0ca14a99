"""The batch stream: the same every time, exactly resumable, in the shares of the mixture."""

import json
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
import torch

from model.bundled_recipe.recipes import mixture
from model.text.tokenizer import Tokenizer
from model.training.data.batches import BUCKET_LENGTHS, BatchStream, valid_batches
from model.training.data.collate import LossWeights, Noise, TrainingBatch
from model.training.data.mixture import Mixture
from model.training.data.prepare import load_source
from tests.model.training.conftest import BUNDLED

TOKENIZER = Tokenizer.load(BUNDLED)
MESSAGE_START, MESSAGE_END = 1, 2

STABLE, DECAY = mixture("stable"), mixture("decay")


def stream(prepared_dir: Path, seed: int = 7, batch_tokens: int = 1024) -> BatchStream:
    return BatchStream(prepared_dir, STABLE, seed=seed, batch_tokens=batch_tokens, weights=LossWeights(0.25, 6.0))


def same(first: list[TrainingBatch], second: list[TrainingBatch]) -> bool:
    return len(first) == len(second) and all(
        a.sources == b.sources
        and torch.equal(a.token_ids_BL, b.token_ids_BL)
        and torch.equal(a.targets_BL, b.targets_BL)
        and torch.equal(a.weights_BL, b.weights_BL)
        for a, b in zip(first, second, strict=True)
    )


def lengths_of(batch: TrainingBatch) -> torch.Tensor:
    """The positions of each row that are not padding."""
    return batch.real_BL.sum(1)


def rows_of(batches: list[TrainingBatch]) -> Counter[tuple[str, tuple[int, ...]]]:
    return Counter(
        (source, tuple(ids[:length].tolist()))
        for batch in batches
        for source, ids, length in zip(batch.sources, batch.token_ids_BL, lengths_of(batch).tolist(), strict=True)
    )


def test_the_same_seed_gives_the_same_batches(prepared_dir: Path) -> None:
    first = list(islice(stream(prepared_dir), 30))
    assert same(first, list(islice(stream(prepared_dir), 30)))
    assert not same(first, list(islice(stream(prepared_dir, seed=8), 30)))


@pytest.mark.parametrize("done", [0, 1, 17, 60])
def test_a_resumed_stream_goes_on_exactly(prepared_dir: Path, done: int) -> None:
    whole, resumed = stream(prepared_dir), stream(prepared_dir)
    for _ in range(done):
        next(whole)
    state = json.loads(json.dumps(whole.state_dict()))
    expected = list(islice(whole, 30))
    resumed.load_state_dict(state)
    assert same(list(islice(resumed, 30)), expected)
    assert resumed.state_dict() == whole.state_dict()


def test_a_state_without_the_waiting_examples_would_not_go_on_exactly(prepared_dir: Path) -> None:
    whole, resumed = stream(prepared_dir), stream(prepared_dir)
    for _ in range(17):
        next(whole)
    state = whole.state_dict()
    state["waiting"] = {length: [] for length in state["waiting"]}
    resumed.load_state_dict(state)
    assert not same(list(islice(resumed, 30)), list(islice(whole, 30)))


def test_a_state_taken_is_not_changed_by_later_batches(prepared_dir: Path) -> None:
    batches = stream(prepared_dir)
    next(batches)
    state = batches.state_dict()
    before = json.dumps(state)
    list(islice(batches, 20))
    assert json.dumps(state) == before


def test_a_state_of_other_sources_or_buckets_is_refused(prepared_dir: Path) -> None:
    state = stream(prepared_dir).state_dict()
    with pytest.raises(ValueError, match="state of sources"):
        stream(prepared_dir).load_state_dict(state | {"drawn": {"translate/other": 1}})
    with pytest.raises(ValueError, match="state of buckets"):
        stream(prepared_dir).load_state_dict(state | {"waiting": {"32": []}})
    with pytest.raises(ValueError, match="state of packed rows does not fit"):
        stream(prepared_dir).load_state_dict({"taken": 0, "streams": []})


@pytest.mark.parametrize("mixture", [STABLE, DECAY])
def test_tokens_come_in_the_shares_of_the_mixture(prepared_dir: Path, mixture: Mixture) -> None:
    batches = BatchStream(prepared_dir, mixture, seed=1, batch_tokens=1024)
    list(islice(batches, 300))
    drawn = batches.sampler.tokens_drawn
    sizes = {name: len(load_source(prepared_dir, name, "train").tokens) for name in drawn}
    expected = mixture.source_shares(sizes)
    assert {name: tokens / sum(drawn.values()) for name, tokens in drawn.items()} == pytest.approx(expected, abs=0.01)


def test_no_example_comes_twice_before_all_came_once(prepared_dir: Path) -> None:
    batches = stream(prepared_dir)
    rows: Counter[tuple[str, tuple[int, ...]]] = Counter()
    while min(batches.sampler.epochs.values()) < 2.2:
        rows.update(rows_of([next(batches)]))
    for name, epochs in batches.sampler.epochs.items():
        times = [count for (source, _), count in rows.items() if source == name]
        # Examples that still wait in a bucket were drawn, but are in no batch yet.
        assert max(times) <= int(epochs) + 1
        assert len(times) == len(load_source(prepared_dir, name, "train"))


def test_epochs_have_different_orders(prepared_dir: Path) -> None:
    batches, orders = stream(prepared_dir), []
    name = "summarize/news-en"
    while batches.sampler.epochs[name] < 2.5:
        orders += [ids for batch in [next(batches)] for source, ids in _rows(batch) if source == name]
    assert orders[:20] != orders[60:80]


def _rows(batch: TrainingBatch) -> list[tuple[str, list[int]]]:
    return list(zip(batch.sources, batch.token_ids_BL.tolist(), strict=True))


def test_shapes_are_buckets_and_hold_as_many_rows_as_fit(prepared_dir: Path) -> None:
    for batch in islice(stream(prepared_dir), 60):
        rows, length = batch.token_ids_BL.shape
        assert length in BUCKET_LENGTHS
        assert rows == 1024 // length
        assert batch.targets_BL.shape == batch.weights_BL.shape == (rows, length)
        shorter = max((bucket for bucket in BUCKET_LENGTHS if bucket < length), default=0)
        assert int(lengths_of(batch).min()) > shorter


def test_targets_are_the_next_tokens_and_weights_the_answers(prepared_dir: Path) -> None:
    seen = set()
    for batch in islice(stream(prepared_dir), 60):
        for row, source in enumerate(batch.sources):
            length = int(lengths_of(batch)[row])
            ids, targets, weights = (x[row] for x in (batch.token_ids_BL, batch.targets_BL, batch.weights_BL))
            assert torch.equal(ids[1:length], targets[: length - 1])
            assert weights[length:].sum() == ids[length:].sum() == targets[length:].sum() == 0
            header = ids[:length].tolist().index(MESSAGE_END) + 1 if int(ids[0]) == MESSAGE_START else 0
            assert weights[:header].sum() == 0
            counted = weights[header:length]
            answer = TOKENIZER.decode(targets[weights > 0.25].tolist(), skip_special=False)
            if source.startswith("analyze/"):
                assert float(counted[counted != 0.25].sum()) == pytest.approx(6)  # a label and the end of the message
            else:
                assert set(counted.tolist()) <= {1.0, 0.25, 0.0}  # nobody has to guess whose turn it is
            if source == "analyze/reviews-en":
                assert answer in {"positive<|im_end|>", "negative<|im_end|>"}
            if source.startswith("generate/"):
                assert answer == TOKENIZER.decode(ids[:length].tolist()) + TOKENIZER.decode(
                    [int(targets[length - 1])], False
                )
            seen.add(source.split("/")[0])
    assert seen == {"translate", "summarize", "analyze", "chat", "generate"}


def test_noise_is_for_what_is_asked_and_for_plain_text_of_the_named_sources(prepared_dir: Path) -> None:
    noise = Noise((("analyze/*", 0.2), ("generate/tinystories-en", 0.1), ("*", 0.0)))
    batches = BatchStream(prepared_dir, STABLE, seed=1, batch_tokens=1024, noise=noise)
    for batch in islice(batches, 40):
        for row, source in enumerate(batch.sources):
            of_row = {round(chance, 3) for chance in batch.noise_BL[row, : lengths_of(batch)[row]].tolist()}
            expected = {"analyze/reviews-en": {0.0, 0.2}, "generate/tinystories-en": {0.0, 0.1}}.get(source, {0.0})
            assert of_row == expected
            if source.startswith("analyze"):  # the labels to choose from can be read, and whose turn it is
                ids = batch.token_ids_BL[row][batch.noise_BL[row] > 0].tolist()
                text = TOKENIZER.decode(batch.token_ids_BL[row].tolist(), False)
                user = text.partition("<|im_start|>user\n")[2].partition("<|im_start|>")[0].removesuffix("\n")
                assert TOKENIZER.decode(ids, False) == user


def test_a_batch_that_cannot_hold_one_example_is_refused(prepared_dir: Path) -> None:
    with pytest.raises(ValueError, match="batch_tokens 100 does not hold one example: use 512 or more"):
        stream(prepared_dir, batch_tokens=100)


# Validation


def test_validation_gives_every_example_once_and_counts_answers_only(prepared_dir: Path) -> None:
    batches = list(valid_batches(prepared_dir, "translate/tatoeba-en-zh"))
    assert sum(rows_of(batches).values()) == len(rows_of(batches)) == 18
    assert same(batches, list(valid_batches(prepared_dir, "translate/tatoeba-en-zh")))
    assert all(set(batch.weights_BL.flatten().tolist()) == {0.0, 1.0} for batch in batches)


def test_validation_can_be_limited(prepared_dir: Path) -> None:
    batches = list(valid_batches(prepared_dir, "translate/tatoeba-en-zh", max_examples=5))
    assert sum(len(batch.sources) for batch in batches) == 5

"""A study's settings: what it takes, what it refuses, and that a directory belongs to one study."""

from pathlib import Path

import pytest

from benchmarks.routing_study.study import Study, SubRun, open_study, parse_tokens, read_study


@pytest.mark.parametrize(
    ("text", "tokens"), [("2M", 2_000_000), ("500k", 500_000), ("1.5M", 1_500_000), ("1200", 1200), ("1_000", 1000)]
)
def test_tokens_are_read(text: str, tokens: int) -> None:
    assert parse_tokens(text) == tokens


@pytest.mark.parametrize("text", ["", "M", "2G", "-1", "2 M", "1.5.2k"])
def test_what_is_no_number_of_tokens_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write 500k, 2M or 2000000"):
        parse_tokens(text)


def test_every_variant_comes_once_before_the_second_seed() -> None:
    runs = list(Study(10, seeds=2, variants=("hash", "relu")).sub_runs())
    assert runs == [SubRun("hash", 1), SubRun("relu", 1), SubRun("hash", 2), SubRun("relu", 2)]
    assert runs[3].directory(Path("a")) == Path("a/relu-seed2")


def test_a_wrong_study_is_refused() -> None:
    with pytest.raises(ValueError, match="no size 'XXL'"):
        Study(10, size="XXL")
    with pytest.raises(ValueError, match="no variant 'dance'"):
        Study(10, variants=("dance",))
    for wrong in ({"tokens": 0}, {"tokens": 10, "seeds": 0}, {"tokens": 10, "variants": ()}):
        with pytest.raises(ValueError, match="needs tokens, seeds and variants"):
            Study(**wrong)


def test_a_directory_takes_more_seeds_but_no_other_length(tmp_path: Path) -> None:
    open_study(Study(1000, seeds=1, variants=("hash",)), tmp_path)
    open_study(Study(1000, seeds=2), tmp_path)
    assert read_study(tmp_path) == Study(1000, seeds=2)
    for other in (Study(2000), Study(1000, size="S")):
        with pytest.raises(ValueError, match="holds a study of 1,000 tokens at size XS"):
            open_study(other, tmp_path)
    assert read_study(tmp_path) == Study(1000, seeds=2)


def test_a_directory_without_a_study_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="routelm compare run"):
        read_study(tmp_path)

"""What a model was found to be good at, and what a server says of it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from model.loading.quality import QUALITY_NAME, ExpertsRow, Quality, TaskScore


def measured(task: str, source: str, part: str, *, better: bool) -> TaskScore:
    return TaskScore(task, source, part, "BLEU", 12.5, "copy source", 20.25, better)


MIXED = Quality(
    (
        measured("translate", "one", "en-de", better=True),
        measured("translate", "two", "en-de", better=False),
        measured("translate", "one", "de-en", better=True),
        measured("analyze", "three", "en", better=False),
    )
)


def test_only_what_is_not_better_than_a_baseline_is_warned_of() -> None:
    assert MIXED.warnings("translate", "de-en") == []
    assert MIXED.warnings("translate", "en-de") == [
        "low_quality.translate: This model is only in part good at translate en-de, see the scores at /v1/models."
    ]
    assert MIXED.warnings("chat") == []


def test_the_scores_are_told_once_for_each_task() -> None:
    translate, analyze = MIXED.all_warnings()
    assert translate.startswith("low_quality.translate: This model is only in part good at translate: on 1 of 3 kinds")
    assert "en-de of two (BLEU 12.5, copy source 20.25)" in translate
    assert "one" not in translate.split("explains: ")[1]
    assert analyze.startswith("low_quality.analyze: This model is not good at analyze: ")


def test_both_directions_of_a_source_are_told_apart() -> None:
    quality = Quality(tuple(measured("translate", "dictionary", part, better=False) for part in ("zh-en", "en-zh")))
    [warning] = quality.all_warnings()
    assert "zh-en of dictionary (BLEU 12.5, copy source 20.25), en-zh of dictionary (" in warning
    assert "not good at translate zh-en" in quality.warnings("translate", "zh-en")[0]


def test_a_lead_that_may_be_chance_is_told_with_its_interval() -> None:
    lead = TaskScore(
        "translate", "dictionary", "zh-en", "BLEU", 4.69, "copy source", 0.0, better=False, low=0.0, high=7.36
    )
    [warning] = Quality((lead,)).all_warnings()
    assert warning == (
        "low_quality.translate: This model is not good at translate: on the text it was tested on it was no better "
        "than a trivial baseline, or by no more than chance explains: zh-en of dictionary (BLEU 4.69, 95 % interval 0 "
        "to 7.36, copy source 0)."
    )


def test_many_sources_are_not_all_named() -> None:
    quality = Quality(tuple(measured("analyze", f"source-{n}", "en", better=False) for n in range(5)))
    [warning] = quality.all_warnings()
    assert "not good at analyze: on 5 of 5 kinds" in warning
    assert "source-2" in warning
    assert "source-3" not in warning
    assert warning.endswith(", and 2 more.")


def test_it_is_kept_beside_the_weights(tmp_path: Path) -> None:
    assert Quality.load(tmp_path) == Quality()
    MIXED.save(tmp_path)
    assert Quality.load(tmp_path) == MIXED
    compared = replace(MIXED, experts=(ExpertsRow(1, {"translate BLEU": 33.9}, 32.0),))
    compared.save(tmp_path)
    assert Quality.load(tmp_path) == compared


ENTRY = {"task": "chat", "source": "s", "part": "en", "metric": "m", "value": 1, "baseline": "b", "baseline_value": 2}


@pytest.mark.parametrize(
    "text",
    [
        "{}", '{"measured": [{"task": "chat"}]}', "[]", "no", '{"measured": ' + "[" * 100_000,
        *(json.dumps({"measured": [{**ENTRY, "better": False, **wrong}]}) for wrong in (
            {"value": None}, {"value": "x"}, {"low": "x"}, {"task": ["chat"]}, {"source": 5}
        )),
        *(json.dumps({"measured": [], "experts": [wrong]}) for wrong in (
            {}, {"experts": "1", "scores": {}, "seconds": 1}, {"experts": 1, "scores": None, "seconds": 1},
            {"experts": 1, "scores": {"chat m": "x"}, "seconds": 1},
        )),
    ],
)  # fmt: skip
def test_a_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / QUALITY_NAME).write_text(text)
    with pytest.raises(ValueError, match=r"quality\.json"):
        Quality.load(tmp_path)

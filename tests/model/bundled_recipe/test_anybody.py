"""Sentences about Tom told of anybody: which ones, of whom, and with which labels."""

import json
from collections.abc import Sequence
from pathlib import Path

import httpx
import pytest

from model.bundled_recipe import anybody
from model.bundled_recipe.anybody import (
    PEOPLE_ASKED_ABOUT,
    ROWS_PER_SENTENCE,
    TEXTS_PER_REQUEST,
    anybody_rows,
    sentences_about_tom,
    served_scores,
)
from model.bundled_recipe.labelled import FEELINGS, people
from model.training.data.rows import find_sources, read_source


def _parallel(source: str, target: str, languages: tuple[str, str] = ("en", "de")) -> dict[str, str]:
    return {"source": source, "target": target, "source_lang": languages[0], "target_lang": languages[1]}


def test_english_sentences_on_either_side_are_read_once() -> None:
    rows = [
        _parallel("Tom was late.", "Tom kam zu spät."),
        _parallel("I saw Tom.", "J'ai vu Tom.", ("en", "fr")),
        _parallel("Ich sah Tom.", "I saw Tom.", ("de", "en")),
    ]
    assert sentences_about_tom(rows) == ["{} was late.", "I saw {}."]


@pytest.mark.parametrize(
    "text",
    [
        "It rains.",
        "Tom likes Mary.",
        "Tom lost his keys.",
        "Tom told Tom.",
        "Tom, come here!",
        "Help me, Tom.",
        "Tom {}.",
    ],
)
def test_sentences_about_nobody_or_of_somebody_else_too_are_left_out(text: str) -> None:
    assert sentences_about_tom([_parallel(text, "")]) == []


@pytest.mark.parametrize(("score", "positive"), [(0.0, 0), (0.5, ROWS_PER_SENTENCE // 2), (1.0, ROWS_PER_SENTENCE)])
def test_the_mean_score_is_the_share_of_positive_rows(score: float, positive: int) -> None:
    rows = list(anybody_rows(["{} was late."], lambda texts: [score] * len(texts)))
    assert [row["label"] for row in rows].count("positive") == positive
    assert len({row["text"] for row in rows}) == len(rows) == ROWS_PER_SENTENCE
    assert {row["text"].removesuffix(" was late.") for row in rows} <= set(people())


def test_a_score_between_two_shares_is_met_on_average() -> None:
    rows = list(anybody_rows(["{} was late."] * 500, lambda texts: [0.25] * len(texts)))
    assert [row["label"] for row in rows].count("positive") / len(rows) == pytest.approx(0.25, abs=0.02)


def test_a_sentence_is_scored_by_the_mean_over_people() -> None:
    asked: list[str] = []

    def scores(texts: Sequence[str]) -> list[float]:
        asked.extend(texts)
        return [1.0] * PEOPLE_ASKED_ABOUT + [0.0] * PEOPLE_ASKED_ABOUT

    rows = list(anybody_rows(["{} won.", "{} lost."], scores))
    assert [text.split()[-1] for text in asked] == ["won."] * PEOPLE_ASKED_ABOUT + ["lost."] * PEOPLE_ASKED_ABOUT
    assert {row["label"] for row in rows if row["text"].endswith("won.")} == {"positive"}
    assert {row["label"] for row in rows if row["text"].endswith("lost.")} == {"negative"}


def _answer(request: httpx.Request) -> httpx.Response:
    body = json.loads(request.content)
    assert body["labels"] == FEELINGS
    assert len(body["text"]) <= TEXTS_PER_REQUEST
    return httpx.Response(200, json={"results": [{"scores": {"positive": len(text) / 100}} for text in body["text"]]})


def test_scores_come_in_the_order_of_the_texts() -> None:
    texts = ["x" * length for length in range(2 * TEXTS_PER_REQUEST + 3)]
    with httpx.Client(base_url="http://server", transport=httpx.MockTransport(_answer)) as client:
        assert served_scores(client, texts) == [length / 100 for length in range(len(texts))]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / f"{anybody.PARALLEL[0]}.train.jsonl"
    path.parent.mkdir()
    rows = [_parallel(f"Tom has {n} cats.", "") | {"task": "translate"} for n in range(3)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return tmp_path


def test_the_command_writes_a_source(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anybody, "served_scores", lambda client, texts: [0.5] * len(texts))
    anybody.main(["http://server", str(data), str(data)])
    written = {source.name: list(read_source(source)) for source in find_sources(data, "train")}
    assert len(written[anybody.SOURCE]) == 3 * ROWS_PER_SENTENCE


def test_a_server_that_does_not_answer_is_named(data: Path) -> None:
    with pytest.raises(SystemExit, match="no scores from http://127"):
        anybody.main(["http://127.0.0.1:1", str(data), str(data)])
    assert not (data / f"{anybody.SOURCE}.train.jsonl.gz").exists()

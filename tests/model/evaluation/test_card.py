"""The card: front matter a hub can read, every number of the evaluation, and plain words about what is not good."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from model.bundled_recipe.model_card import provenance
from model.evaluation.card import CARD_DETAILS, CardFacts, card_details, model_card
from model.evaluation.report import EvaluationReport
from model.evaluation.run import evaluate
from model.evaluation.scores import Baseline, Sample, Score
from model.evaluation.training_facts import read_training_facts
from tests.model.evaluation.fakes import FakeModel


def write_log(run_dir: Path, steps: int = 200) -> None:
    lines = []
    for step in range(1, steps + 1):
        line: dict[str, Any] = {
            "step": step,
            "tokens": 1000 * step,
            "loss": 8.0 - step / 100,
            "max_violation": 0.5,
            "tokens_per_second": 500.0 if step % 2 else 1000.0,
        }
        if step % 100 == 0:
            line["valid"] = {"translate/tatoeba-en-de": 3.25 - step / 200, "chat/talk-en": 2.75}
        lines.append(json.dumps(line))
    (run_dir / "log.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture
def facts(tmp_path: Path) -> CardFacts:
    write_log(tmp_path)
    return CardFacts(
        name="Fake-18M",
        description="A model that copies.",
        hardware="one abacus",
        commands=["routelm train bundled", "routelm evaluate"],
        training=read_training_facts(tmp_path),
        provenance=provenance(["translate/tatoeba-en-de", "generate/tinystories-en"]),
        recipe={"optimizer": "Muon and AdamW"},
        intended_use=["copying"],
        not_for=["thinking"],
        known_limits=["It copies."],
        languages=["en", "zh"],
        tags=["mixture-of-experts"],
        trained_experts="1 or 2",
        loss_plot="loss.png",
    )


@pytest.fixture(scope="module")
def report(data_dir: Path) -> EvaluationReport:
    return evaluate(FakeModel(), data_dir)


def numbers(report: EvaluationReport) -> Iterator[str]:
    """Every number of the report's JSON, as it is shown."""
    fields = json.loads(report.to_json())
    for score in fields["scores"]:
        values = [score["value"], *(other["value"] for other in score["baselines"] + score["comparisons"])]
        values += score["interval"].values() if score["interval"] else []
        yield from (f"{value:.{score['digits']}f}" for value in values)
        yield str(score["samples"])


def test_front_matter_is_yaml_that_hubs_know(facts: CardFacts, report: EvaluationReport) -> None:
    card = model_card(facts, report)
    assert card.startswith("---\n")
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["license"] == "apache-2.0"
    assert front["language"] == ["en", "zh"]
    assert front["tags"] == ["mixture-of-experts"]
    assert front["pipeline_tag"] == "text-generation"


def test_details_has_every_number_of_the_evaluation(facts: CardFacts, report: EvaluationReport) -> None:
    card = card_details(facts, report)
    shown = list(numbers(report))
    assert len(shown) > 100
    assert [number for number in shown if number not in card] == []
    changed = replace(report, scores=(replace(report.scores[0], value=-123.456), *report.scores[1:]))
    assert "-123.46" not in card
    assert "-123.46" in card_details(facts, changed)


def test_details_says_what_is_not_better_than_a_baseline(facts: CardFacts, report: EvaluationReport) -> None:
    section = card_details(facts, report).split("## Not better than a trivial baseline")[1].split("\n## ")[0]
    assert "translate/tatoeba-en-de (en-de): BLEU" in section
    assert "copy source" in section


def test_details_of_a_good_model_says_that_nothing_is_worse(facts: CardFacts, report: EvaluationReport) -> None:
    better = Score("translate/x", "en-de", "BLEU", 30.0, None, 9, "higher", (Baseline("copy source", 1.0),))
    section = card_details(facts, replace(report, scores=(better,))).split("trivial baseline\n")[1].split("\n## ")[0]
    assert section.strip().startswith("None: each of the 1 scores")


def test_details_has_training_facts(facts: CardFacts, report: EvaluationReport) -> None:
    card = card_details(facts, report)
    for fact in ("200,000", "one abacus", "Muon and AdamW", "routelm train bundled", "![Losses over tokens](loss.png)"):
        assert fact in card
    assert "| translate/tatoeba-en-de | 2.250 |" in card


def test_details_has_licence_and_credit_of_each_source(facts: CardFacts, report: EvaluationReport) -> None:
    card = card_details(facts, report)
    for source in facts.provenance.sources:
        assert all(text in card for text in (source.name, source.origin, source.licence, source.attribution))
    assert "wikisplit" not in card


def test_the_page_has_the_main_scores_beside_their_baselines(facts: CardFacts, report: EvaluationReport) -> None:
    scores = (
        Score("translate/x", "en-de", "BLEU", 31.25, None, 9, "higher", (Baseline("copy source", 1.0),)),
        Score("translate/x", "en-de", "chrF", 77.75, None, 9, "higher", (Baseline("copy source", 2.0),)),
        Score("analyze/y", "en", "accuracy", 40.0, None, 9, "higher", (Baseline("majority", 50.0),)),
        Score("chat/left-out", "en", "bits per byte", 1.5, None, 9, "lower"),
        Score("interview/fact", "all", "right answers in %", 62.5, None, 9, "higher"),
        Score("interview/fact", "zh", "right answers in %", 12.5, None, 9, "higher"),
    )
    headline = ("translate/*", "analyze/*", "interview/*")
    page = model_card(replace(facts, headline=headline), replace(report, scores=scores))
    assert "| translate | x, en-de | BLEU | 31.25 | 1.00 (copy source) |" in page
    assert "| 40.00 | 50.00 (majority), **not beaten** |" in page
    assert "62.5" in page
    assert not any(text in page for text in ("77.75", "left-out", "12.5"))
    assert CARD_DETAILS in page


def test_card_shows_given_examples_on_one_line_each(facts: CardFacts, report: EvaluationReport) -> None:
    example = Sample("chat/x", "en", "Hi\nthere", "Hello", "a `b` | c" + "x" * 1000)
    card = model_card(replace(facts, examples=[example]), report)
    assert "- asked: `Hi there`" in card
    assert "- answered: `a 'b' | c" in card
    assert "x" * 500 not in card


def test_training_facts_by_hand(tmp_path: Path) -> None:
    write_log(tmp_path)
    facts = read_training_facts(tmp_path)
    assert (facts.steps, facts.tokens) == (200, 200_000)
    assert facts.hours == pytest.approx((100 * 2 + 100 * 1) / 3600)
    assert facts.tokens_per_second == pytest.approx(200_000 / 300)
    assert facts.final_loss == pytest.approx(8 - 175.5 / 100)
    assert facts.validation == {"translate/tatoeba-en-de": 2.25, "chat/talk-en": 2.75}
    assert len(facts.curve) == 12
    assert facts.curve[-1].tokens == 200_000
    assert facts.curve[-1].valid == pytest.approx(2.5)
    assert facts.curve[0].valid is None


def test_training_facts_of_a_run_that_has_just_begun(tmp_path: Path) -> None:
    write_log(tmp_path, steps=1)
    facts = read_training_facts(tmp_path)
    assert facts.validation == {}
    assert len(facts.curve) == 1


@pytest.mark.parametrize("content", [None, ""])
def test_training_facts_need_a_log(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "log.jsonl").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=r"log\.jsonl"):
        read_training_facts(tmp_path)

"""Facts asked in other words: each type is asked, answers hold the fact, yes and no are right, all is deterministic."""

import re

import pytest

from model.bundled_recipe.fact_phrasings import FactType, Phrasings, fact_phrasing_rows, read_phrasings
from model.training.data.rows import Row

ENGLISH, CHINESE = read_phrasings("en"), read_phrasings("zh")
EXCHANGES = {
    "en": [
        ("Hi! what is the capital of France", "The capital of France is Paris."),
        ("Capital of Spain?", "Madrid is the capital of Spain."),
        ("Capital of the United States? I forgot.", "Washington, D.C. is the capital of the United States."),
        ("What is the capital of Chad?", "It is N'Djamena."),
        ("What is 2 + 3?", "2 + 3 = 5."),
        ("What class of animal is a bat?", "A bat is a mammal."),
        ("What class of animal is a crow?", "A crow is a bird."),
        ("Opposite of hot?", "Cold is the opposite of hot."),
        ("Where is Zorma?", "I don't know Zorma."),
        ("Why does it rain?", "Rain falls when clouds hold too much water."),
    ],
    "zh": [
        ("你好，法国的首都是哪里？", "法国的首都是巴黎。"),
        ("告诉我西班牙的首都。", "马德里是西班牙的首都。"),
        ("日本的首都是什么？", "是东京。"),
        ("3×3=？", "3×3=9。"),
        ("大的反义词是什么？", "“大”的反义词是“小”。"),
    ],
}


def row(question: str, answer: str) -> Row:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"task": "chat", "messages": turns}


def last_exchanges(language: str) -> list[tuple[str, str]]:
    kept = {"chat/facts": [row(*exchange) for exchange in EXCHANGES[language]]}
    rows = fact_phrasing_rows(kept, language)
    return [(row["messages"][-2]["content"], row["messages"][-1]["content"]) for row in rows]


def about(language: str, name: str) -> list[tuple[str, str]]:
    return [exchange for exchange in last_exchanges(language) if name.lower() in exchange[0].lower()]


@pytest.mark.parametrize("language", ["en", "zh"])
def test_rows_are_the_same_each_time_and_alternate(language: str) -> None:
    kept = {"chat/facts": [row(*exchange) for exchange in EXCHANGES[language]]}
    rows = list(fact_phrasing_rows(kept, language))
    assert rows == list(fact_phrasing_rows(kept, language))
    for made in rows:
        roles = [message["role"] for message in made["messages"]]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
    assert {len(made["messages"]) for made in rows} == {2, 4}
    assert len({made["messages"][-2]["content"] for made in rows}) > 0.9 * len(rows)


@pytest.mark.parametrize(
    ("language", "name", "fact"),
    [("en", "Spain", "Madrid"), ("en", "2 + 3", "5"), ("zh", "西班牙", "马德里"), ("zh", "3×3", "9")],
)
def test_answers_hold_the_fact(language: str, name: str, fact: str) -> None:
    asked = about(language, name)
    assert len(asked) > 1
    assert all(fact in answer for question, answer in asked), asked


@pytest.mark.parametrize(("language", "yes", "no"), [("en", "Yes, ", "No, "), ("zh", "是的，", "不")])
def test_yes_and_no_are_right(language: str, yes: str, no: str) -> None:
    phrasings = read_phrasings(language)
    capital = next(fact_type for fact_type in phrasings.types if fact_type.name == "capital")
    slots = {"x": "Spain", "y": "Madrid", "other": "Paris"}
    _, pairs = phrasings.exchanges(capital, slots)
    assert sum(answer.startswith(yes) for _, answer in pairs)
    assert sum(answer.startswith(no) for _, answer in pairs)
    for question, answer in pairs:
        assert "Madrid" in answer
        assert not (answer.startswith(yes) and "Paris" in question)
        assert not (answer.startswith(no) and "Paris" not in question)


def test_what_could_be_true_is_no_wrong_answer() -> None:
    """Hot has two opposites here, so that neither may be called wrong; one that may is taken from another fact."""
    exchanges = [("Opposite of hot?", f"The opposite of hot is {word}.") for word in ("cold", "cool")]
    kept = {"chat/facts": [row(*exchange) for exchange in exchanges]}
    assert not any(made["messages"][-1]["content"].startswith("No,") for made in fact_phrasing_rows(kept, "en"))
    kept["chat/facts"] += [row("Opposite of big?", f"The opposite of big is {word}.") for word in ("small", "little")]
    assert any(made["messages"][-1]["content"].startswith("No,") for made in fact_phrasing_rows(kept, "en"))


def test_a_lead_is_taken_off_and_a_pronoun_is_no_name() -> None:
    questions = [question for question, _ in last_exchanges("en")]
    assert any("france" in question.lower() for question in questions)
    assert not any(re.search(r"\b[Ii]t is the capital of|capital of It\b", question) for question in questions)


def test_an_abbreviation_keeps_its_full_stop() -> None:
    answers = [answer for question, answer in last_exchanges("en") if "Washington" in answer]
    assert answers
    assert all("D.C." in answer and "D.C.." not in answer for answer in answers)


def test_what_no_type_knows_is_asked_as_it_stands() -> None:
    asked = about("en", "why does it rain")
    assert len(asked) > 1
    assert {answer for _, answer in asked} == {EXCHANGES["en"][-1][1]}


@pytest.mark.parametrize("phrasings", [ENGLISH, CHINESE], ids=["en", "zh"])
def test_every_type_can_be_asked(phrasings: Phrasings) -> None:
    for fact_type in (*phrasings.types, *phrasings.fallbacks):
        plain, pairs = phrasings.exchanges(fact_type, slots_of(fact_type) | {"y_next": "43", "X": "x"})
        assert len({question for question, _ in [*plain, *pairs]}) >= 3, fact_type.name
        assert all(answer for _, answer in [*plain, *pairs]), fact_type.name


def test_a_missing_slot_leaves_out_the_template() -> None:
    fact_type = FactType("test", patterns=[], questions=["What is {x_word}?", "What is {x}?"], answers=["{y}"])
    assert ENGLISH.exchanges(fact_type, {"x": "30", "y": "thirty"})[0] == [("What is 30?", "Thirty")]


def slots_of(fact_type: FactType) -> dict[str, str]:
    named = re.findall(r"\?P<(\w+)>", " ".join([*fact_type.patterns, fact_type.asked]))
    return {"x": "x", "other": "other"} | dict.fromkeys(named, "42")

"""Everyday facts are well-formed and asked; invented names are distinct and never answered with a fact."""

from model.bundled_recipe.everyday_facts import everyday_fact_rows, read_facts, unknown_names
from model.bundled_recipe.fact_phrasings import fact_rows, read_phrasings

PHRASINGS = read_phrasings("en")
UNKNOWN = unknown_names()


def test_every_fact_has_a_type_that_asks_it() -> None:
    types = {fact_type.name: fact_type for fact_type in (*PHRASINGS.types, *PHRASINGS.fallbacks)}
    for name, facts in (read_facts() | UNKNOWN).items():
        for slots in facts[::20]:  # all of a type have the same slots
            plain, _ = PHRASINGS.exchanges(types[name], slots | PHRASINGS.derived(slots))
            assert len(plain) >= 10, (name, slots)


def test_no_fact_is_listed_twice() -> None:
    for name, facts in read_facts().items():
        assert len({tuple(slots.values()) for slots in facts}) == len(facts), name


def test_invented_names_are_distinct_the_same_at_each_call_and_not_known() -> None:
    assert unknown_names() == UNKNOWN
    for facts in UNKNOWN.values():
        names = [slots["x"] for slots in facts]
        assert len(set(names)) == len(names)
    few = {kind: facts[:3] for kind, facts in UNKNOWN.items()}
    answers = {row["messages"][-1]["content"] for row in fact_rows(PHRASINGS, few)}
    assert all("know" in answer or "never heard" in answer for answer in answers)
    assert all(any(slots["x"] in answer for facts in few.values() for slots in facts) for answer in answers)


def test_rows_are_made_without_other_sources() -> None:
    rows = everyday_fact_rows({})
    assert next(rows)["messages"][0]["role"] == "user"

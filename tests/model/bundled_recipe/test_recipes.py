"""Recipes by name, and the mixtures they read."""

import json
import tomllib
from fnmatch import fnmatchcase

import pytest

from model.bundled_recipe.model_card import DATA_SOURCES
from model.bundled_recipe.recipes import MIXTURES_FILE, RECIPES, mixture, recipe_named

MIXTURES = tomllib.loads(MIXTURES_FILE.read_text(encoding="utf-8"))["mixtures"]
SOURCES = [source["name"] for source in json.loads(DATA_SOURCES.read_text(encoding="utf-8"))["sources"]]


def test_an_unknown_recipe_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=", ".join(RECIPES)):
        recipe_named("huge", None)


def test_a_recipe_may_be_given_another_length() -> None:
    assert recipe_named("tiny", 5).tokens == 5
    assert recipe_named("tiny", None).tokens == 400_000


@pytest.mark.parametrize("name", MIXTURES)
def test_shares_sum_to_one_and_every_pattern_has_a_source(name: str) -> None:
    chosen = mixture(name)
    assert sum(part.share for part in chosen.parts) == pytest.approx(1.0)
    for pattern in (pattern for part in chosen.parts for pattern in part.patterns):
        assert any(fnmatchcase(source, pattern) for source in SOURCES), pattern
    assert sum(chosen.source_shares(dict.fromkeys(SOURCES, 100)).values()) == pytest.approx(1.0)


@pytest.mark.parametrize(("name", "plain_text"), [("stable", 0.15), ("decay", 0.06)])
def test_the_two_phases(name: str, plain_text: float) -> None:
    shares = {part.name: part.share for part in mixture(name).parts}
    assert shares["plain_text"] == plain_text
    assert max(shares, key=lambda part: shares[part]) == "translate"


def test_everyday_sentences_outweigh_the_word_list() -> None:
    sizes = {"translate/tatoeba-en-zh": 100, "translate/cedict-zh-en": 100, "translate/ntrex-en-de": 100}
    shares = mixture("stable").source_shares(sizes)
    assert shares["translate/tatoeba-en-zh"] > 5 * max(
        shares["translate/cedict-zh-en"], shares["translate/ntrex-en-de"]
    )


def test_chat_reads_facts_before_all_else() -> None:
    shares = mixture("everyday-decay").source_shares(dict.fromkeys(SOURCES, 100))
    chat = {name: share for name, share in shares.items() if name.startswith("chat/")}
    assert max(chat, key=lambda name: chat[name]) == "chat/facts-en"
    assert sum(chat.values()) == pytest.approx(0.49)

"""Every source has a licence and a credit, and none is for non-commercial use."""

import json

import pytest

from model.bundled_recipe.extra_sources import EXTRA_SOURCES
from model.bundled_recipe.model_card import DATA_SOURCES, provenance


def test_sources_are_listed_once_and_none_is_non_commercial() -> None:
    listed = json.loads(DATA_SOURCES.read_text(encoding="utf-8"))["sources"]
    names = [source["name"] for source in listed]
    assert len(names) == len(set(names))
    assert not any("-nc" in name for name in names)
    assert all(source.licence and source.attribution and source.origin for source in provenance(names).sources)


def test_a_source_without_known_licence_is_refused() -> None:
    with pytest.raises(ValueError, match="licence of chat/leaked is not known"):
        provenance(["chat/kdconv-zh", "chat/leaked"])


def test_made_sources_have_a_licence() -> None:
    made = {extra.name for extra in EXTRA_SOURCES}
    assert {source.name for source in provenance(made).sources} == made

"""The rows of the sources made from templates, made once for all tests."""

import pytest

from model.bundled_recipe.extra_sources import all_persona_rows
from model.bundled_recipe.talk.sources import TALK_SOURCES
from model.training.data.prepare import ExtraSource
from model.training.data.rows import Row

TEMPLATE_SOURCES = (*TALK_SOURCES, ExtraSource("chat/routelm-persona", all_persona_rows))


@pytest.fixture(scope="session", params=TEMPLATE_SOURCES, ids=lambda source: source.name)
def template_rows(request: pytest.FixtureRequest) -> list[Row]:
    """All rows of one source after the other."""
    return list(request.param.rows({}))

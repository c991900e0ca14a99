"""The tasks are functions of an admission: batches and commands call them without HTTP."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from server.engine.types import SamplingParams
from server.errors import InvalidRequestError
from server.generation.admission import Admission
from server.generation.stream import all_results
from server.tasks.analyze import classify
from server.tasks.summarize import SummarizeParams, start_summary
from server.tasks.translate import TranslateParams, start_translation
from tests.server.applications import Server

GREEDY = SamplingParams(max_tokens=50, temperature=0.0)


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(work, 10))


def test_translate(server: Server) -> None:
    server.answer_with("Hallo.")

    async def work() -> list[str]:
        with Admission(server.service, "r") as admission:
            translation = await start_translation(admission, TranslateParams(["It is so.", "Why?"], "de", GREEDY))
            assert translation.source_langs == ["en", "en"]
            return [result.text for result in await all_results(translation.generations)]

    assert run(work()) == ["Hallo.", "Hallo."]
    assert {request.sampling.beam_width for request in server.engine.submitted} == {4}


def test_translate_refuses_a_text_in_the_target_language(server: Server) -> None:
    params = TranslateParams(["hello"], "en", GREEDY, source_lang="en")
    with pytest.raises(InvalidRequestError) as refused:
        run(start_translation(Admission(server.service, "r"), params))
    assert refused.value.param == "source_lang"
    assert server.engine.submitted == []


def test_summarize(server: Server) -> None:
    server.answer_with("short")

    async def work() -> tuple[str, str, str]:
        with Admission(server.service, "r") as admission:
            params = SummarizeParams("Das ist ein langer Text.", GREEDY, method="generate")
            summary = await start_summary(admission, params)
            return (await summary.generation.result()).text, summary.language, summary.method

    assert run(work()) == ("short", "de", "generate")


def test_analyze(server: Server) -> None:
    with Admission(server.service, "r") as admission:
        [found] = run(classify(admission, ["one"], ["a", "b"]))
    assert sum(found.scores.values()) == pytest.approx(1)
    assert found.scores[found.label] == max(found.scores.values())
    assert len(admission.generations) == 2

"""POST /v1/summarize."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from model.loading.quality import Quality, TaskScore
from model.text.task_prompts import InstructionPrompts, TaggedPrompts
from server.generation.admission import Admission
from server.tasks import extractive_summary
from server.tasks.label_scoring import ContinuationScore, ScoringRequest
from tests.server.applications import MODEL, Server, events_of
from tests.server.fake_engine import FakeEngine

OWN_WORDS = {"method": "generate"}
SENTENCES = ["It began on a rainy day.", "Nobody knew why.", "In the end the dam broke."]


class ShortSighted(TaggedPrompts):
    """Can read sixty bytes at once."""

    longest_document: int | None = 60


def test_a_summary(client: TestClient, server: Server) -> None:
    server.answer_with("short")
    response = client.post(
        "/v1/summarize", json={"text": "Das ist ein sehr langer Text.", "length": "short", **OWN_WORDS}
    )
    assert response.status_code == 200, response.text
    answer = response.json()
    assert answer["object"] == "summary"
    assert answer["summary"] == "short"
    assert (answer["language"], answer["length"], answer["finish_reason"]) == ("de", "short", "stop")
    prompt = server.tokenizer.decode(server.engine.submitted[0].prompt_token_ids, skip_special=False)
    assert "<|task:summarize|><|de|><|short|>" in prompt


def test_a_stream(client: TestClient, server: Server) -> None:
    server.answer_with("ab")
    body = {"text": "some long text", "language": "zh", "stream": True, **OWN_WORDS}
    *chunks, done = events_of(client.post("/v1/summarize", json=body).text)
    assert [chunk["delta"] for chunk in chunks] == ["a", "b"]
    assert {chunk["object"] for chunk in chunks} == {"summary.chunk"}
    assert done["object"] == "summary.done"
    assert (done["model"], done["language"], done["length"]) == (MODEL, "zh", "medium")
    assert done["finish_reason"] == "stop"
    assert done["usage"]["completion_tokens"] == 3


@pytest.mark.parametrize("stream", [False, True])
def test_a_summary_that_was_cut_off_says_so(client: TestClient, server: Server, stream: bool) -> None:
    server.answer_with("a longer one")
    response = client.post("/v1/summarize", json={"text": "a text", "max_tokens": 3, "stream": stream, **OWN_WORDS})
    assert (events_of(response.text)[-1] if stream else response.json())["finish_reason"] == "length"


def test_repeating_is_made_less_likely_unless_the_client_says_otherwise(client: TestClient, server: Server) -> None:
    for fields in ({}, {"frequency_penalty": 0.0}, {"frequency_penalty": -1.0}):
        assert client.post("/v1/summarize", json={"text": "a text", **OWN_WORDS, **fields}).status_code == 200
    assert [request.sampling.frequency_penalty for request in server.engine.submitted] == [0.5, 0.0, -1.0]


def test_other_lengths_are_refused(client: TestClient) -> None:
    response = client.post("/v1/summarize", json={"text": "a", "length": "tiny"})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "length"


def test_a_long_document_is_summarized_by_pieces_and_counted(client: TestClient, server: Server) -> None:
    server.service.prompts = ShortSighted()
    server.answer_with("brief.")
    text = "This is one sentence of it. " * 6
    answer = client.post("/v1/summarize", json={"text": text, "length": "short", **OWN_WORDS}).json()
    assert answer["summary"] == "brief."
    *pieces, final = [
        server.tokenizer.decode(each.prompt_token_ids, skip_special=False) for each in server.engine.submitted
    ]
    assert len(pieces) == 3
    assert all("<|en|><|medium|>" in piece for piece in pieces)
    assert "<|short|><|im_end|>\n<|im_start|>user\nbrief.\nbrief.\nbrief.<|im_end|>" in final
    assert answer["usage"]["completion_tokens"] == 4 * len("brief.!")


def test_summaries_of_pieces_that_are_still_too_long_are_summarized_again(client: TestClient, server: Server) -> None:
    server.service.prompts = ShortSighted()
    server.answer_with("This is much shorter.")
    text = "This is one sentence of it. " * 8
    client.post("/v1/summarize", json={"text": text, "length": "short", **OWN_WORDS})
    read = [server.tokenizer.decode(each.prompt_token_ids, skip_special=False) for each in server.engine.submitted]
    rounds = [read.count(each) for each in dict.fromkeys(read)]
    assert rounds == [4, 2, 1]
    assert read[-1].count("much shorter") == 2


def test_max_tokens_is_that_of_the_summary_not_of_the_pieces_on_the_way(client: TestClient, server: Server) -> None:
    server.service.prompts = ShortSighted()
    server.answer_with("brief.")
    text = "This is one sentence of it. " * 6
    client.post("/v1/summarize", json={"text": text, "max_tokens": 3, **OWN_WORDS})
    assert [request.sampling.max_tokens for request in server.engine.submitted] == [80, 80, 80, 3]


@pytest.mark.parametrize("method", [{}, OWN_WORDS], ids=["extract", "generate"])
def test_a_document_of_far_too_many_pieces_is_refused(
    client: TestClient, server: Server, method: dict[str, str]
) -> None:
    server.service.prompts = ShortSighted()
    response = client.post("/v1/summarize", json={"text": "This is one sentence of it. " * 200, **method})
    assert response.status_code == 400
    assert "at most 64" in response.json()["error"]["message"]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[ScoringRequest]:
    """The mean of a sentence is -1, but -0.5 if it has the word "end"."""
    questions: list[ScoringRequest] = []

    async def score(_: Admission, given: Sequence[ScoringRequest]) -> list[list[ContinuationScore]]:
        questions.extend(given)
        return [[ContinuationScore(-2.0 if "end" in answer else -4.0, 4) for answer in q.continuations] for q in given]

    monkeypatch.setattr(extractive_summary, "score_continuations", score)
    return questions


def test_the_likeliest_sentence_is_the_summary(client: TestClient, asked: list[ScoringRequest]) -> None:
    answer = client.post("/v1/summarize", json={"text": " ".join(SENTENCES)}).json()
    assert answer["summary"] == SENTENCES[2]
    assert (answer["method"], answer["finish_reason"]) == ("extract", "stop")
    assert [question.continuations for question in asked] == [SENTENCES]


def test_of_equals_the_first_wins_and_two_make_a_long_summary(client: TestClient, asked: list[ScoringRequest]) -> None:
    same = ["One here.", "Two there.", "Three on top."]
    assert client.post("/v1/summarize", json={"text": " ".join(same)}).json()["summary"] == same[0]
    long = client.post("/v1/summarize", json={"text": " ".join(SENTENCES), "length": "long"}).json()
    assert long["summary"] == f"{SENTENCES[0]} {SENTENCES[2]}"
    assert len(asked) == 2


@pytest.fixture
def weighed(monkeypatch: pytest.MonkeyPatch) -> dict[str, ContinuationScore]:
    """Scores by answer, to be filled by the test."""
    scores: dict[str, ContinuationScore] = {}

    async def score(_: Admission, given: Sequence[ScoringRequest]) -> list[list[ContinuationScore]]:
        return [[scores[answer] for answer in question.continuations] for question in given]

    monkeypatch.setattr(extractive_summary, "score_continuations", score)
    return scores


@pytest.mark.parametrize(("better", "summary"), [(0.1, 0), (0.3, 1)])
def test_a_sentence_must_be_better_than_the_first_by_a_margin(
    client: TestClient, weighed: dict[str, ContinuationScore], better: float, summary: int
) -> None:
    sentences = ["One here.", "Two there."]
    weighed |= {sentences[0]: ContinuationScore(-4.0, 4), sentences[1]: ContinuationScore(4 * (better - 1), 4)}
    assert client.post("/v1/summarize", json={"text": " ".join(sentences)}).json()["summary"] == sentences[summary]


def test_a_long_sentence_is_not_less_likely_for_its_length(
    client: TestClient, weighed: dict[str, ContinuationScore]
) -> None:
    weighed |= {"One here.": ContinuationScore(-8.0, 4), "Two of them stood over there.": ContinuationScore(-10.0, 10)}
    answer = client.post("/v1/summarize", json={"text": " ".join(weighed)}).json()
    assert answer["summary"] == "Two of them stood over there."


def test_a_sentence_that_says_what_the_others_say_is_preferred(
    client: TestClient, weighed: dict[str, ContinuationScore]
) -> None:
    sentences = ["Nobody knew why.", "The dam broke.", "Then the old dam broke at night."]
    weighed |= dict.fromkeys(sentences, ContinuationScore(-4.0, 4))
    assert client.post("/v1/summarize", json={"text": " ".join(sentences)}).json()["summary"] in sentences[1:]


@pytest.mark.parametrize(
    ("sentences", "joined"),
    [(["第一句。", "第二句。", "第三句。"], ""), (["One here.", "Two there.", "Six more."], " ")],
)
def test_two_sentences_are_joined_as_their_language_does(
    client: TestClient, weighed: dict[str, ContinuationScore], sentences: list[str], joined: str
) -> None:
    weighed |= dict(zip(sentences, [ContinuationScore(mean * 4.0, 4) for mean in (-9, -1, -2)], strict=True))
    text = joined.join(sentences)
    answer = client.post("/v1/summarize", json={"text": text, "length": "long", "method": "extract"}).json()
    assert answer["summary"] == joined.join(sentences[1:])


def test_extraction_streams_too(client: TestClient, asked: list[ScoringRequest]) -> None:
    body = {"text": "".join(["第一句。", "第二句。"]), "stream": True}
    chunk, done = events_of(client.post("/v1/summarize", json=body).text)
    assert chunk["delta"] == "第一句。"
    assert (done["method"], done["language"], done["finish_reason"]) == ("extract", "zh", "stop")
    assert asked


def test_candidates_are_scored_by_the_engine_and_counted(client: TestClient, server: Server) -> None:
    answer = client.post("/v1/summarize", json={"text": " ".join(SENTENCES)}).json()
    assert answer["summary"] in SENTENCES
    requests = server.engine.submitted
    assert len(requests) == 3
    assert all(request.sampling.max_tokens == 0 for request in requests)
    ends = [server.tokenizer.decode(request.prompt_token_ids[request.boundaries[-1] :]) for request in requests]
    assert ends == SENTENCES
    assert answer["usage"]["prompt_tokens"] == sum(len(request.prompt_token_ids) for request in requests)


def test_of_a_long_document_only_the_first_sentences_of_each_piece_are_weighed(
    client: TestClient, asked: list[ScoringRequest], server: Server
) -> None:
    server.service.prompts = ShortSighted()
    client.post("/v1/summarize", json={"text": "It is so. " * 6 * 20})
    assert len(asked) == 20
    assert {len(question.continuations) for question in asked} == {64 // 20}


@pytest.mark.parametrize(
    ("body", "method"),
    [
        ({"length": "long"}, "generate"),  # two sentences are joined
        ({"length": "medium"}, "extract"),
        ({"length": "long", "method": "extract"}, "extract"),
        ({"length": "medium", "method": "generate"}, "generate"),
    ],
)
def test_the_method(client: TestClient, body: dict[str, Any], method: str) -> None:
    text = " ".join(SENTENCES[:2])
    assert client.post("/v1/summarize", json={"text": text, **body}).json()["method"] == method


def test_other_models_use_their_own_words(client: TestClient, server: Server) -> None:
    server.service.prompts = InstructionPrompts()
    assert client.post("/v1/summarize", json={"text": " ".join(SENTENCES)}).json()["method"] == "generate"


def test_a_model_that_is_not_good_at_it_says_so(client: TestClient, server: Server) -> None:
    assert client.post("/v1/summarize", json={"text": "One. Two."}).json()["warnings"] == []
    weak = TaskScore("summarize", "news-en", "en", "ROUGE-1", 9.8, "first sentence", 21.9, better=False)
    server.service.quality = Quality((weak,))
    [warning] = client.post("/v1/summarize", json={"text": "One. Two."}).json()["warnings"]
    assert warning.startswith("low_quality.summarize: ")
    assert "news-en" not in warning, "the scores are told at /v1/models"


@pytest.mark.parametrize("text", ["One sentence and no more.", "...", "1.", "-", "word " * 390])
def test_a_text_of_one_sentence_is_its_own_summary(client: TestClient, server: Server, text: str) -> None:
    answer = client.post("/v1/summarize", json={"text": text}).json()
    assert answer["summary"].strip()
    assert answer["usage"]["total_tokens"] == 0
    assert server.engine.submitted == []


def test_a_summary_of_chunks_is_not_refused_when_others_take_the_free_slot(
    client: TestClient, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once the chunks are summarized, another request takes every slot that is free for longer than a moment."""
    server.service.prompts = ShortSighted()
    server.answer_with("brief.")
    free, chunks = FakeEngine.free_capacity, 3

    def taken_soon(engine: FakeEngine, *given: Any) -> int:
        slots = free(engine, *given)
        if len(engine.submitted) == chunks and slots > 0:
            asyncio.get_running_loop().call_soon(setattr, engine, "occupied", engine.capacity)
        return slots

    monkeypatch.setattr(FakeEngine, "free_capacity", taken_soon)
    response = client.post("/v1/summarize", json={"text": "This is one sentence of it. " * 6, **OWN_WORDS})
    assert response.status_code == 200, response.text
    assert len(server.engine.submitted) == chunks + 1


def test_a_stream_starts_before_the_chunks_are_summarized(server: Server, url: str) -> None:
    """Its headers come at once, so that nothing on the way takes the connection for dead."""
    server.service.prompts = ShortSighted()
    server.answer_with("brief.")
    server.engine.step_seconds = 0.1
    body = {"text": "This is one sentence of it. " * 6, "stream": True, **OWN_WORDS}
    with httpx.stream("POST", f"{url}/v1/summarize", json=body, trust_env=False) as response:
        assert response.status_code == 200
        assert len(server.engine.submitted) == 3, "only the chunks so far"
        assert events_of(response.read().decode())[-1]["object"] == "summary.done"
    assert len(server.engine.submitted) == 4


def test_a_summary_that_is_refused_has_a_status_of_its_own(client: TestClient, server: Server) -> None:
    server.engine.occupied = server.engine.capacity
    response = client.post("/v1/summarize", json={"text": "a text", "stream": True, **OWN_WORDS})
    assert response.status_code == 429


def test_leaving_before_the_chunks_are_summarized_frees_them(server: Server, url: str) -> None:
    server.service.prompts = ShortSighted()
    server.answer_with("x" * 70)
    server.engine.step_seconds = 0.1
    body = {"text": "This is one sentence of it. " * 6, "stream": True, **OWN_WORDS}
    with httpx.stream("POST", f"{url}/v1/summarize", json=body, trust_env=False):
        assert server.engine.running == 3
    for _ in range(400):
        if server.engine.running == 0:
            break
        time.sleep(0.01)
    assert server.engine.running == 0
    assert len(server.engine.submitted) == 3

"""POST /v1/translate."""

from typing import Any

import pytest
from starlette.testclient import TestClient

from model.loading.quality import Quality, TaskScore
from server.generation.segments import MAX_PARALLEL_SEGMENTS
from tests.server.applications import MODEL, Server, events_of


def translate(client: TestClient, **fields: Any) -> Any:
    response = client.post("/v1/translate", json=fields)
    assert response.status_code == 200, response.text
    return response.json()


def prompt_text(server: Server, index: int = 0) -> str:
    return server.tokenizer.decode(server.engine.submitted[index].prompt_token_ids, skip_special=False)


def test_too_many_sentences_in_all_are_refused(client: TestClient, server: Server) -> None:
    response = client.post("/v1/translate", json={"text": ["It is. " * 2048] * 3, "target_lang": "de"})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "text"
    assert "6144 sentences are too many; at most 4096" in response.json()["error"]["message"]
    assert server.engine.submitted == []


def test_one_text(client: TestClient, server: Server) -> None:
    server.answer_with("你好")
    answer = translate(client, text="hello", source_lang="en", target_lang="zh")
    assert answer["id"].startswith("trans-")
    assert answer["object"] == "translation"
    assert answer["model"] == MODEL
    assert answer["translations"] == [{"text": "你好", "source_lang": "en", "detected": False, "finish_reason": "stop"}]
    assert answer["usage"]["completion_tokens"] == 7
    assert prompt_text(server).startswith("<|im_start|>system\n<|task:translate|><|en|><|zh|><|im_end|>")
    assert server.engine.submitted[0].sampling.temperature == 0


def test_a_list_in_several_languages(client: TestClient, server: Server) -> None:
    server.answer_with("hi")
    answer = translate(client, text=["das ist nicht gut", "c'est très bien"], target_lang="en")
    assert [(t["source_lang"], t["detected"]) for t in answer["translations"]] == [("de", True), ("fr", True)]
    assert "<|de|><|en|>" in prompt_text(server, 0)
    assert "<|fr|><|en|>" in prompt_text(server, 1)


def test_a_stream_ends_with_details_and_usage(client: TestClient, server: Server) -> None:
    server.answer_with("ab")
    body = {"text": ["das ist gut", "ich bin da"], "target_lang": "en", "stream": True, "max_tokens": 2}
    *chunks, done = events_of(client.post("/v1/translate", json=body).text)
    texts = ["", ""]
    for chunk in chunks:
        assert set(chunk) == {"object", "id", "index", "delta"}
        assert chunk["object"] == "translation.chunk"
        texts[chunk["index"]] += chunk["delta"]
    assert texts == ["ab", "ab"]
    usage = done.pop("usage")
    assert usage["completion_tokens"] == 4
    assert done.pop("id") == chunks[0]["id"]
    detail = {"source_lang": "de", "detected": True, "finish_reason": "length"}
    assert done == {
        "object": "translation.done",
        "model": MODEL,
        "translations": [detail, detail],
        "warnings": [],
        "finish_reason": "length",
    }


@pytest.mark.parametrize("texts", [["das ist lang", "das ist gut"], ["das ist gut", "das ist lang"]])
def test_where_any_text_was_cut_off_the_stream_says_so(client: TestClient, server: Server, texts: list[str]) -> None:
    long = server.tokenizer.encode("lang")[0]
    server.engine.answer = lambda request: [50] * (9 if long in request.prompt_token_ids[-20:] else 2)
    body = {"text": texts, "source_lang": "de", "target_lang": "en", "stream": True, "max_tokens": 5}
    done = events_of(client.post("/v1/translate", json=body).text)[-1]
    assert [each["finish_reason"] for each in done["translations"]] == [
        "length" if "lang" in text else "stop" for text in texts
    ]
    assert done["finish_reason"] == "length"


def test_streamed_or_not_a_weak_direction_is_named(client: TestClient, server: Server) -> None:
    weak = TaskScore("translate", "news", "de-en", "BLEU", 3.0, "copy source", 3.5, better=False)
    server.service.quality = Quality((weak,))
    body = {"text": "das ist gut", "target_lang": "en"}
    [warning] = client.post("/v1/translate", json=body).json()["warnings"]
    assert "not good at translate de-en" in warning
    assert events_of(client.post("/v1/translate", json=body | {"stream": True}).text)[-1]["warnings"] == [warning]


def test_every_weak_direction_of_a_list_is_named_once(client: TestClient, server: Server) -> None:
    server.service.quality = Quality(
        tuple(
            TaskScore("translate", "news", pair, "BLEU", 3.0, "copy source", 3.5, better=False)
            for pair in ("de-en", "zh-en", "fr-en")
        )
    )
    texts = ["das ist nicht gut", "das ist gut", "c'est très bien"]
    german, french = translate(client, text=texts, target_lang="en")["warnings"]
    assert "translate de-en" in german
    assert "translate fr-en" in french


def test_sampling_fields_and_stop_strings_are_taken(client: TestClient, server: Server) -> None:
    server.answer_with("one. two")
    answer = translate(client, text="eins", source_lang="de", target_lang="en", stop=".", temperature=0.5, seed=3)
    assert answer["translations"][0]["text"] == "one"
    assert server.engine.submitted[0].sampling.temperature == 0.5
    assert server.engine.submitted[0].sampling.seed == 3


def test_a_long_text_goes_sentence_by_sentence_and_keeps_its_lines(client: TestClient, server: Server) -> None:
    server.answer_with("好。")
    text = "It rains. Stay here!\n\n- One\n- Two\n"
    answer = translate(client, text=text, source_lang="en", target_lang="zh")
    assert answer["translations"][0]["text"] == "好。好。\n\n- 好。\n- 好。\n"
    assert len(server.engine.submitted) == 4
    assert "user\nStay here!<|im_end|>" in prompt_text(server, 1)


def test_sentences_are_searched_for_unless_tokens_are_to_be_chosen_otherwise(
    client: TestClient, server: Server
) -> None:
    body = {"text": "hello", "source_lang": "en", "target_lang": "zh"}
    for fields in ({}, {"temperature": 0.5}, {"beam_width": 2}, {"beam_width": 1}):
        translate(client, **body, **fields)
    assert [asked.sampling.beam_width for asked in server.engine.submitted] == [4, 1, 2, 1]


def test_a_direction_that_was_not_learnt_is_refused_unless_forced(client: TestClient, server: Server) -> None:
    body = {"text": "das ist gut", "source_lang": "de", "target_lang": "fr"}
    response = client.post("/v1/translate", json=body)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == "target_lang"
    assert "de-en, en-de" in error["message"]
    assert "force" in error["message"]
    server.answer_with("c'est bon")
    assert translate(client, **body, force=True)["translations"][0]["text"] == "c'est bon"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"text": "hello", "source_lang": "en", "target_lang": "en"}, "source_lang"),
        ({"text": ["das ist gut", "the house is big"], "target_lang": "en"}, "source_lang"),
        ({"text": "hello", "target_lang": "es"}, "target_lang"),
        ({"text": "hello"}, "target_lang"),
        ({"text": " \n", "target_lang": "en"}, "text.0"),
        ({"text": [], "target_lang": "en"}, "text"),
        ({"text": ["a"] * 33, "target_lang": "de"}, "text"),
        ({"text": "hello", "target_lang": "de", "grammar": "x"}, "grammar"),
    ],
)
def test_what_cannot_be_is_refused(client: TestClient, server: Server, fields: dict[str, Any], param: str) -> None:
    response = client.post("/v1/translate", json=fields)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
    assert server.engine.submitted == []


@pytest.mark.parametrize("text", ["- ", "1. ", "* \n"])
def test_a_lone_list_mark_is_a_text_too(client: TestClient, text: str) -> None:
    assert translate(client, text=text, source_lang="en", target_lang="de")["translations"][0]["text"].strip()


def test_many_long_texts_fit_an_idle_server_and_leave_room(client: TestClient, server: Server) -> None:
    server.engine.capacity = 80
    answer = translate(client, text=["It rains. " * 8] * 32, source_lang="en", target_lang="de")
    assert [each["text"].count("It rains.") for each in answer["translations"]] == [8] * 32


@pytest.mark.parametrize(("texts", "sentences"), [(1, 40), (4, 20), (32, 3)])
def test_one_request_has_no_more_at_once_for_having_several_texts(
    client: TestClient, server: Server, texts: int, sentences: int
) -> None:
    running: list[int] = []
    server.engine.step_seconds = 0.001  # the first segments still run when the last ones start
    server.engine.answer = lambda _: running.append(server.engine.running) or ()  # type: ignore[func-returns-value]
    translate(client, text=["It rains. " * sentences] * texts, source_lang="en", target_lang="de")
    assert max(running) == MAX_PARALLEL_SEGMENTS

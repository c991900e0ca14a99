"""POST /v1/summarize."""

from starlette.testclient import TestClient

from model.prompts import TaggedPrompts
from tests.server.applications import MODEL, Server, events_of


class ShortSighted(TaggedPrompts):
    """Can read sixty bytes at once."""

    longest_document: int | None = 60


def test_a_summary(client: TestClient, server: Server) -> None:
    server.answer_with("short")
    response = client.post("/v1/summarize", json={"text": "Das ist ein sehr langer Text.", "length": "short"})
    assert response.status_code == 200, response.text
    answer = response.json()
    assert answer["object"] == "summary"
    assert answer["summary"] == "short"
    assert (answer["language"], answer["length"], answer["finish_reason"]) == ("de", "short", "stop")
    prompt = server.tokenizer.decode(server.engine.submitted[0].prompt_token_ids, skip_special=False)
    assert "<|task:summarize|><|de|><|short|>" in prompt


def test_a_stream(client: TestClient, server: Server) -> None:
    server.answer_with("ab")
    body = {"text": "some long text", "language": "zh", "stream": True}
    *chunks, done = events_of(client.post("/v1/summarize", json=body).text)
    assert [chunk["delta"] for chunk in chunks] == ["a", "b"]
    assert {chunk["object"] for chunk in chunks} == {"summary.chunk"}
    assert done["object"] == "summary.done"
    assert (done["model"], done["language"], done["length"]) == (MODEL, "zh", "medium")
    assert done["finish_reason"] == "stop"
    assert done["usage"]["completion_tokens"] == 3


def test_other_lengths_are_refused(client: TestClient) -> None:
    response = client.post("/v1/summarize", json={"text": "a", "length": "tiny"})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "length"


def test_a_long_document_is_summarized_by_pieces_and_counted(client: TestClient, server: Server) -> None:
    server.service.prompts = ShortSighted()
    server.answer_with("brief.")
    text = "This is one sentence of it. " * 6
    answer = client.post("/v1/summarize", json={"text": text, "length": "short"}).json()
    assert answer["summary"] == "brief."
    *pieces, final = [
        server.tokenizer.decode(each.prompt_token_ids, skip_special=False) for each in server.engine.submitted
    ]
    assert len(pieces) == 3
    assert all("<|en|><|medium|>" in piece for piece in pieces)
    assert "<|short|><|im_end|>\n<|im_start|>user\nbrief.\nbrief.\nbrief.<|im_end|>" in final
    assert answer["usage"]["completion_tokens"] == 4 * len("brief.!")


def test_a_document_of_far_too_many_pieces_is_refused(client: TestClient, server: Server) -> None:
    server.service.prompts = ShortSighted()
    response = client.post("/v1/summarize", json={"text": "This is one sentence of it. " * 200})
    assert response.status_code == 400
    assert "at most 64" in response.json()["error"]["message"]

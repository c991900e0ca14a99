"""Closed questions: the shape of OpenAI's Decisions API, and probabilities that are those of the labels."""

import math
from typing import Any

import pytest
from openai.types import Decision
from starlette.testclient import TestClient

from server.tasks import decide
from tests.server.applications import Server
from tests.server.fake_engine import logprob_of

TICKET = "I was charged twice."
QUEUE = {"type": "choice", "name": "queue", "instructions": "Which queue?",
         "choices": [{"value": "billing", "description": "money"}, {"value": "bugs"}, {"value": True}]}  # fmt: skip
URGENT = {"type": "predicate", "instructions": [{"type": "input_text", "text": "It is urgent."}]}
ANGER = {
    "type": "score",
    "name": "anger",
    "instructions": "How angry?",
    "levels": [{"label": "calm"}, {"label": "angry"}],
}


def ask(client: TestClient, status: int = 200, **body: Any) -> Any:
    response = client.post("/v1/decisions", json={"input": TICKET, "questions": [QUEUE]} | body)
    assert response.status_code == status, response.text
    return response.json()


def test_answers_are_those_of_openai_and_in_order(client: TestClient) -> None:
    answer = ask(client, questions=[QUEUE, URGENT, ANGER], prompt_cache_key="x", safety_identifier="y")
    assert list(answer) == ["model", "answers", "usage"]
    Decision.model_validate(answer, strict=True)
    queue, urgent, anger = answer["answers"]
    assert (queue["type"], queue["name"]) == ("choice", "queue")
    assert [each["value"] for each in queue["probabilities"]] == ["billing", "bugs", True]
    best = max(queue["probabilities"], key=lambda each: each["probability"])
    assert queue["choice"] == best["value"]
    assert math.isclose(queue["confidence"], (best["probability"] - 1 / 3) / (2 / 3))
    assert (urgent["type"], urgent["name"]) == ("predicate", None)
    assert 0 < urgent["probability"] < 1
    assert [(each["value"], each["label"]) for each in anger["probabilities"]] == [(0, "calm"), (1, "angry")]
    assert math.isclose(anger["score"], anger["probabilities"][1]["probability"])
    for each in (queue, anger):
        assert math.isclose(sum(entry["probability"] for entry in each["probabilities"]), 1)


def test_probabilities_come_from_the_likelihood_of_the_labels(client: TestClient, server: Server) -> None:
    found = ask(client)["answers"][0]["probabilities"]
    sums = []
    for request in server.engine.submitted:
        ids, start = request.prompt_token_ids, request.boundaries[-1]
        sums.append(sum(logprob_of(token, place) for place, token in enumerate(ids) if place >= start))
    weights = [math.exp(value) for value in sums]
    for entry, weight in zip(found, weights, strict=True):
        assert math.isclose(entry["probability"], weight / sum(weights))


def test_all_of_the_input_and_the_question_is_in_the_prompt(client: TestClient, server: Server) -> None:
    conversation = [
        {"role": "user", "content": [{"type": "input_text", "text": "Look it up."}]},
        {"type": "function_call", "call_id": "c1", "name": "find", "arguments": '{"x": 1}', "id": "i"},
        {"type": "function_call_output", "call_id": "c1", "output": "found it"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Done."}]},
    ]
    assert "warnings" not in ask(client, input=conversation)
    prompt = server.tokenizer.decode(server.engine.submitted[0].prompt_token_ids)
    for part in ("user: Look it up.", 'call of find: {"x": 1}', "result: found it", "assistant: Done.", "Which queue?"):
        assert part in prompt


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"questions": []}, "questions"),
        ({"questions": [{**QUEUE, "choices": [{"value": "a"}]}]}, "questions.0.choices"),
        ({"questions": [{**QUEUE, "choices": [{"value": "a"}, {"value": "a"}]}]}, "questions.0.choices"),
        ({"questions": [{**QUEUE, "choices": [{"value": True}, {"value": "true"}]}]}, "questions.0.choices"),
        ({"questions": [{"type": "box", "instructions": "x"}]}, "questions.0"),
        ({"questions": [{**URGENT, "instructions": [{"type": "input_image", "image_url": "x"}]}]},
         "questions.0.instructions.0.type"),
        ({"questions": [{**QUEUE, "choices": [{"value": str(n)} for n in range(255)]}] * 5}, "questions"),
        ({"input": [{"type": "custom_tool_call"}]}, "input.0"),
        ({"input": []}, "input"),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_what_is_wrong_is_named(client: TestClient, changes: dict[str, Any], param: str) -> None:
    assert ask(client, 400, **changes)["error"]["param"] == param


def test_a_text_that_is_too_long_is_refused_at_the_first_question(client: TestClient, server: Server) -> None:
    error = ask(client, 400, input="x" * 1000, questions=[URGENT] * 400)["error"]
    assert error["code"] == "context_length_exceeded"
    assert server.engine.submitted == []


def test_all_options_together_have_a_bounded_input(
    client: TestClient, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decide, "MAX_PROMPT_TOKENS", 700)
    assert ask(client, questions=[QUEUE])
    server.engine.submitted.clear()
    error = ask(client, 400, questions=[QUEUE] * 4)["error"]
    assert error["param"] == "questions"
    assert "700 tokens of input together" in error["message"]
    assert not server.engine.submitted

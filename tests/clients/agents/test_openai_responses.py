"""OpenAI's Python client: responses, their streams by its own accumulator, calls, decisions."""

import json
from collections.abc import Iterator

import openai
import pytest
from pydantic import BaseModel

MODEL = "scripted"
QUESTION = [{"role": "user", "content": "What is the weather in Paris?"}]
WEATHER = {
    "type": "function",
    "name": "weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
ANSWER = "It is sunny in Paris."


class Forecast(BaseModel):
    city: str
    sunny: bool


@pytest.fixture(scope="module")
def client(agent_url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{agent_url}/v1", api_key="unused", max_retries=0) as client:
        yield client


def test_a_response(client: openai.OpenAI) -> None:
    response = client.responses.create(model=MODEL, input="Weather?", instructions="Be brief.")
    assert (response.output_text, response.status, response.usage.output_tokens) == (ANSWER, "completed", 3)


def test_the_accumulator_of_a_stream_has_the_response(client: openai.OpenAI) -> None:
    with client.responses.stream(model=MODEL, input=QUESTION) as stream:
        events = list(stream)
        assert stream.get_final_response().output_text == ANSWER
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == ANSWER


@pytest.mark.parametrize("streamed", [False, True])
def test_a_call_and_its_result(client: openai.OpenAI, streamed: bool) -> None:
    asked = {"model": MODEL, "tools": [WEATHER]}
    if streamed:
        with client.responses.stream(input=QUESTION, **asked) as stream:
            response = stream.until_done().get_final_response()
    else:
        response = client.responses.create(input=QUESTION, **asked)
    [call] = response.output
    assert (call.type, call.name, json.loads(call.arguments)) == ("function_call", "weather", {"city": "Paris"})
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    called = {"type": "function_call", "call_id": call.call_id, "name": call.name, "arguments": call.arguments}
    assert client.responses.create(input=[*QUESTION, called, result], **asked).output_text == ANSWER


def test_a_typed_answer(client: openai.OpenAI) -> None:
    asked = {"model": MODEL, "input": QUESTION, "text_format": Forecast}
    assert client.responses.parse(**asked).output_parsed == Forecast(city="Paris", sunny=True)
    with client.responses.stream(**asked) as stream:
        assert stream.get_final_response().output_parsed == Forecast(city="Paris", sunny=True)


def test_what_needs_storage_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="responses are not stored here"):
        client.responses.create(model=MODEL, input="x", previous_response_id="resp_1")


def test_decisions(client: openai.OpenAI) -> None:
    if not hasattr(client, "decisions"):
        pytest.skip("this version of the client has no decisions")
    questions = [
        {"type": "choice", "name": "queue", "instructions": "Which?", "choices": [{"value": "a"}, {"value": "b"}]},
        {"type": "predicate", "instructions": "It is urgent."},
    ]
    queue, urgent = client.decisions.create(model=MODEL, input="I was charged twice.", questions=questions).answers
    assert queue.choice in ("a", "b")
    assert 0 <= urgent.probability <= 1

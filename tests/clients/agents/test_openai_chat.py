"""OpenAI's Python client on chat completions: typed answers, calls and their results, whole and streamed."""

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from pydantic import BaseModel

MODEL = "scripted"
QUESTION = [{"role": "user", "content": "What is the weather in Paris?"}]
ANSWER = "It is sunny in Paris."


class Forecast(BaseModel):
    city: str
    sunny: bool


class Weather(BaseModel):
    """The weather of a city."""

    city: str


TOOL = openai.pydantic_function_tool(Weather, name="weather")


@pytest.fixture(scope="module")
def client(agent_url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{agent_url}/v1", api_key="unused", max_retries=0) as client:
        yield client


@pytest.fixture(params=[False, True], ids=["whole", "streamed"])
def ask(request: pytest.FixtureRequest, client: openai.OpenAI) -> Any:
    """Asks and returns the message with what was parsed."""

    def whole(**fields: Any) -> Any:
        return client.chat.completions.parse(model=MODEL, **fields).choices[0].message

    def streamed(**fields: Any) -> Any:
        with client.chat.completions.stream(model=MODEL, **fields) as stream:
            return stream.get_final_completion().choices[0].message

    return streamed if request.param else whole


def test_a_typed_answer(ask: Any) -> None:
    message = ask(messages=QUESTION, response_format=Forecast)
    assert message.parsed == Forecast(city="Paris", sunny=True)


@pytest.mark.parametrize("choice", ["auto", "required", {"type": "function", "function": {"name": "weather"}}], ids=str)
def test_a_call_and_its_result(ask: Any, choice: Any) -> None:
    message = ask(messages=QUESTION, tools=[TOOL], tool_choice=choice)
    [call] = message.tool_calls
    assert call.function.parsed_arguments == Weather(city="Paris")
    assert json.loads(call.function.arguments) == {"city": "Paris"}
    result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    history = [*QUESTION, message.model_dump(exclude={"parsed"}, exclude_none=True), result]
    assert ask(messages=history, tools=[TOOL]).content == ANSWER


def test_no_call_where_none_may_be_made(ask: Any) -> None:
    assert not ask(messages=QUESTION, tools=[TOOL], tool_choice="none").tool_calls

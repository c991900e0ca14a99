"""Pydantic AI: a tool, a typed result by way of a tool, and a stream, on chat completions and on responses."""

import pytest
from pydantic import BaseModel
from pydantic_ai import Agent
from pydantic_ai.models import Model
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

QUESTION = "What is the weather in Paris?"


class Forecast(BaseModel):
    city: str
    sunny: bool


def weather(city: str) -> str:
    """The weather of a city."""
    return f"sunny in {city}"


@pytest.fixture(params=[OpenAIChatModel, OpenAIResponsesModel], ids=["chat", "responses"])
def model(request: pytest.FixtureRequest, agent_url: str) -> Model:
    return request.param("scripted", provider=OpenAIProvider(base_url=f"{agent_url}/v1", api_key="unused"))


async def test_an_agent_calls_a_tool_and_answers(model: Model) -> None:
    agent = Agent(model, tools=[weather])
    result = await agent.run(QUESTION)
    assert result.output == "It is sunny in Paris."
    assert [message.kind for message in result.all_messages()] == ["request", "response"] * 2
    async with agent.run_stream(QUESTION) as stream:
        assert await stream.get_output() == "It is sunny in Paris."


async def test_a_typed_result(model: Model) -> None:
    result = await Agent(model, tools=[weather], output_type=Forecast).run(QUESTION)
    assert result.output == Forecast(city="Paris", sunny=True)

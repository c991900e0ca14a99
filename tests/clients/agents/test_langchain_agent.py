"""LangChain on both of OpenAI's APIs: structured output, bound tools, and an agent that calls a tool and answers."""

import pytest
from langchain.agents import create_agent
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

QUESTION = "What is the weather in Paris?"


class Forecast(BaseModel):
    city: str
    sunny: bool


@tool
def weather(city: str) -> str:
    """The weather of a city."""
    return f"sunny in {city}"


@pytest.fixture(params=[False, True], ids=["chat", "responses"])
def model(request: pytest.FixtureRequest, agent_url: str) -> ChatOpenAI:
    return ChatOpenAI(
        model="scripted", base_url=f"{agent_url}/v1", api_key="unused", max_retries=0, use_responses_api=request.param
    )


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured_output(model: ChatOpenAI, method: str) -> None:
    structured = model.with_structured_output(Forecast, method=method)
    assert structured.invoke(QUESTION) == Forecast(city="Paris", sunny=True)


def test_bound_tools(model: ChatOpenAI) -> None:
    bound = model.bind_tools([weather])
    [call] = bound.invoke(QUESTION).tool_calls
    assert (call["name"], call["args"]) == ("weather", {"city": "Paris"})
    whole = None
    for chunk in bound.stream(QUESTION):
        whole = chunk if whole is None else whole + chunk
    assert [(call["name"], call["args"]) for call in whole.tool_calls] == [("weather", {"city": "Paris"})]


def test_an_agent_calls_a_tool_and_answers(model: ChatOpenAI) -> None:
    messages = create_agent(model, [weather]).invoke({"messages": [("user", QUESTION)]})["messages"]
    assert [message.type for message in messages] == ["human", "ai", "tool", "ai"]
    assert messages[2].content == "sunny in Paris"
    assert messages[3].text == "It is sunny in Paris."

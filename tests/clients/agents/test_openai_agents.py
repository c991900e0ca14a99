"""OpenAI's Agents SDK, on responses, which are its default, and on chat completions."""

import pytest
from agents import Agent, OpenAIProvider, RunConfig, Runner, function_tool, set_tracing_disabled

set_tracing_disabled(True)


@function_tool
def weather(city: str) -> str:
    """The weather of a city."""
    return f"sunny in {city}"


@pytest.mark.parametrize("use_responses", [True, False], ids=["responses", "chat"])
async def test_an_agent_calls_a_tool_and_answers(agent_url: str, use_responses: bool) -> None:
    provider = OpenAIProvider(base_url=f"{agent_url}/v1", api_key="unused", use_responses=use_responses)
    agent = Agent(name="forecaster", instructions="Be brief.", tools=[weather], model="scripted")
    config = RunConfig(model_provider=provider)
    result = await Runner.run(agent, "What is the weather in Paris?", run_config=config)
    assert result.final_output == "It is sunny in Paris."
    outputs = [item.output for item in result.new_items if item.type == "tool_call_output_item"]
    assert outputs == ["sunny in Paris"]
    streamed = Runner.run_streamed(agent, "What is the weather in Paris?", run_config=config)
    async for _ in streamed.stream_events():
        pass
    assert streamed.final_output == "It is sunny in Paris."

"""Smolagents: its ToolCallingAgent, which ends with a call of `final_answer`."""

from smolagents import OpenAIModel, ToolCallingAgent, tool


@tool
def weather(city: str) -> str:
    """The weather of a city.

    Args:
        city: its name
    """
    return f"sunny in {city}"


def test_an_agent_calls_a_tool_and_ends(agent_url: str) -> None:
    model = OpenAIModel(model_id="scripted", api_base=f"{agent_url}/v1", api_key="unused")
    agent = ToolCallingAgent(tools=[weather], model=model, max_steps=3, verbosity_level=0)
    assert agent.run("What is the weather in Paris?") == "Paris"

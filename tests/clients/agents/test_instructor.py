"""Instructor: a typed answer by way of a call, which is its default."""

import instructor
import openai
import pytest
from pydantic import create_model

Forecast = create_model("final_result", city=(str, ...), sunny=(bool, ...))  # the name of a tool that the script knows
QUESTION = [{"role": "user", "content": "What is the weather in Paris?"}]


@pytest.fixture(scope="module")
def client(agent_url: str) -> instructor.Instructor:
    return instructor.from_openai(openai.OpenAI(base_url=f"{agent_url}/v1", api_key="unused", max_retries=0))


def test_a_typed_answer(client: instructor.Instructor) -> None:
    asked = {"model": "scripted", "messages": QUESTION, "response_model": Forecast, "max_retries": 0}
    assert client.chat.completions.create(**asked).model_dump() == {"city": "Paris", "sunny": True}
    *_, last = client.chat.completions.create_partial(**asked)
    assert last.model_dump() == {"city": "Paris", "sunny": True}

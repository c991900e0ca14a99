"""Instructor: a typed answer by way of a call, which is its default. A grammar makes the small model follow it."""

from typing import Literal

import instructor
import openai
import pytest
from live_server import MODEL
from pydantic import BaseModel

QUESTION = [{"role": "user", "content": "What is the weather in Paris?"}]


class Forecast(BaseModel):
    sunny: bool
    wind: Literal["weak", "strong"]


@pytest.fixture(scope="module")
def client(base_url: str) -> instructor.Instructor:
    return instructor.from_openai(openai.OpenAI(base_url=base_url, api_key="unused", max_retries=0))


def test_a_typed_answer(client: instructor.Instructor) -> None:
    asked = {"model": MODEL, "messages": QUESTION, "response_model": Forecast, "max_retries": 0}
    assert client.chat.completions.create(**asked).wind in ("weak", "strong")

"""Ollama's Python client: chats, completions, streams, tools, lists of models, errors."""

import ollama
import pytest

MODEL = "scripted"
QUESTION = [{"role": "user", "content": "What is the weather in Paris?"}]
ANSWER = "It is sunny in Paris."


def weather(city: str) -> str:
    """The weather of a city.

    Args:
      city: its name
    """
    return f"sunny in {city}"


@pytest.fixture(scope="module")
def client(agent_url: str) -> ollama.Client:
    return ollama.Client(host=agent_url)


def test_a_chat(client: ollama.Client) -> None:
    answer = client.chat(model=f"{MODEL}:latest", messages=QUESTION, options={"temperature": 0, "num_ctx": 4096})
    assert (answer.message.role, answer.message.content) == ("assistant", ANSWER)
    assert (answer.done, answer.done_reason, answer.eval_count) == (True, "stop", 3)


def test_streams(client: ollama.Client) -> None:
    chunks = list(client.chat(model=MODEL, messages=QUESTION, stream=True))
    assert "".join(chunk.message.content for chunk in chunks) == ANSWER
    assert [chunk.done for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    parts = list(client.generate(model=MODEL, prompt="Weather?", stream=True))
    assert "".join(part.response for part in parts) == ANSWER


def test_a_completion(client: ollama.Client) -> None:
    assert client.generate(model=MODEL, prompt="Weather?", system="Be brief.").response == ANSWER
    assert client.generate(model=MODEL, prompt="<|text|>", raw=True).response == ANSWER


@pytest.mark.parametrize("streamed", [False, True])
def test_a_call_and_its_result(client: ollama.Client, streamed: bool) -> None:
    answers = client.chat(model=MODEL, messages=QUESTION, tools=[weather], stream=streamed)
    messages = [answer.message for answer in answers] if streamed else [answers.message]
    [call] = [call for message in messages for call in message.tool_calls or ()]
    assert (call.function.name, call.function.arguments) == ("weather", {"city": "Paris"})
    result = {"role": "tool", "tool_name": "weather", "content": weather(**call.function.arguments)}
    turns = [*QUESTION, {"role": "assistant", "content": "", "tool_calls": [call]}, result]
    assert client.chat(model=MODEL, messages=turns, tools=[weather]).message.content == ANSWER


def test_the_model_is_listed_shown_and_loaded(client: ollama.Client) -> None:
    [listed], [running] = client.list().models, client.ps().models
    assert (listed.model, running.model, running.context_length) == (MODEL, MODEL, 16384)
    shown = client.show(MODEL)
    assert shown.modelinfo["general.architecture"] == "llama"
    assert "tools" in shown.capabilities
    assert listed.size > 0


def test_errors_are_strings(client: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError, match="is not served here") as missing:
        client.chat(model="llama3", messages=QUESTION)
    assert missing.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match="makes no embeddings"):
        client.embed(model=MODEL, input="x")

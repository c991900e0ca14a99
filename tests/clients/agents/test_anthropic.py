"""Anthropic's Python client: messages, streams by its own accumulator, tools, counts, errors."""

from collections.abc import Iterator

import anthropic
import pytest

MODEL = "scripted"
QUESTION = [{"role": "user", "content": "What is the weather in Paris?"}]
WEATHER = {
    "name": "weather",
    "description": "The weather of a city",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
ASKED = {"model": MODEL, "max_tokens": 100, "messages": QUESTION}
ANSWER = "It is sunny in Paris."


@pytest.fixture(scope="module")
def client(agent_url: str) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=agent_url, api_key="unused", max_retries=0) as client:
        yield client


def test_a_message(client: anthropic.Anthropic) -> None:
    message = client.messages.create(**ASKED, system="Be brief.")
    assert [block.text for block in message.content] == [ANSWER]
    assert (message.role, message.stop_reason, message.model) == ("assistant", "end_turn", MODEL)
    assert message.usage.output_tokens == 3
    counted = client.messages.count_tokens(model=MODEL, messages=QUESTION, system="Be brief.")
    assert counted.input_tokens == message.usage.input_tokens + message.usage.cache_read_input_tokens


def test_the_accumulator_of_a_stream_has_the_message(client: anthropic.Anthropic) -> None:
    with client.messages.stream(**ASKED) as stream:
        assert "".join(stream.text_stream) == ANSWER
        message = stream.get_final_message()
    assert (message.stop_reason, message.usage.output_tokens) == ("end_turn", 3)
    kinds = [event.type for event in client.messages.create(**ASKED, stream=True)]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]


@pytest.mark.parametrize("streamed", [False, True])
def test_a_call_and_its_result(client: anthropic.Anthropic, streamed: bool) -> None:
    asked = {**ASKED, "tools": [WEATHER]}
    if streamed:
        with client.messages.stream(**asked) as stream:
            message = stream.get_final_message()
    else:
        message = client.messages.create(**asked)
    [call] = message.content
    assert (message.stop_reason, call.type, call.name, call.input) == (
        "tool_use",
        "tool_use",
        "weather",
        {"city": "Paris"},
    )
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}
    messages = [*QUESTION, {"role": "assistant", "content": message.content}, {"role": "user", "content": [result]}]
    assert client.messages.create(**{**asked, "messages": messages}).content[0].text == ANSWER


def test_the_tool_runner(client: anthropic.Anthropic) -> None:
    asked = []

    @anthropic.beta_tool
    def weather(city: str) -> str:
        """The weather of a city."""
        asked.append(city)
        return "sunny"

    final = client.beta.messages.tool_runner(**ASKED, tools=[weather]).until_done()
    assert (asked, final.content[0].text) == (["Paris"], ANSWER)


def test_errors_are_the_clients_own(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError, match="is not served here"):
        client.messages.create(**{**ASKED, "model": "claude"})
    with pytest.raises(anthropic.BadRequestError, match="web_search_20250305 is not served"):
        client.messages.create(**ASKED, tools=[{"type": "web_search_20250305", "name": "web_search"}])

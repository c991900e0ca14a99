"""LangChain's OpenAI integration: chat, streams, batches, completions, and its error for a prompt that is too long."""

import pytest
from langchain_core.exceptions import ContextOverflowError
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI, OpenAI
from live_server import CONTEXT, MODEL


@pytest.fixture(scope="module")
def chat(base_url: str) -> ChatOpenAI:
    return ChatOpenAI(model=MODEL, base_url=base_url, api_key="unused", max_tokens=12, temperature=0, max_retries=0)


def test_invoke(chat: ChatOpenAI) -> None:
    answer = chat.invoke("How are you?")
    assert answer.content
    assert answer.usage_metadata["output_tokens"] > 0
    assert answer.response_metadata["finish_reason"] in ("stop", "length")


def test_stream_equals_invoke(chat: ChatOpenAI) -> None:
    chunks = list(chat.stream("How are you?", stream_usage=True))
    assert "".join(chunk.content for chunk in chunks) == chat.invoke("How are you?").content
    assert any(chunk.usage_metadata for chunk in chunks)


async def test_async_and_events(chat: ChatOpenAI) -> None:
    answer = await chat.ainvoke("How are you?")
    ends = [event async for event in chat.astream_events("How are you?") if event["event"] == "on_chat_model_end"]
    assert ends[0]["data"]["output"].content == answer.content


def test_batch(chat: ChatOpenAI) -> None:
    asked = ["How are you?", "Hello!", "What is your name?"]
    assert [answer.content for answer in chat.batch(asked)] == [chat.invoke(text).content for text in asked]


def test_several_turns_and_content_parts(chat: ChatOpenAI) -> None:
    turns = [
        SystemMessage("Answer briefly."),
        HumanMessage([{"type": "text", "text": "How are you?"}]),
        AIMessage("I am fine."),
        HumanMessage("Good."),
    ]
    assert chat.invoke(turns).content


def test_logprobs(chat: ChatOpenAI) -> None:
    answer = chat.bind(logprobs=True, top_logprobs=2).invoke("How are you?")
    assert len(answer.response_metadata["logprobs"]["content"][0]["top_logprobs"]) == 2


def test_completions(base_url: str) -> None:
    model = OpenAI(model=MODEL, base_url=base_url, api_key="unused", max_tokens=8, temperature=0)
    whole = model.invoke("Once upon a time")
    assert whole
    assert "".join(model.stream("Once upon a time")) == whole
    assert model.batch(["Once upon a time", "The little boat"])[0] == whole


def test_overflow_is_recognised(chat: ChatOpenAI) -> None:
    with pytest.raises(ContextOverflowError):
        chat.invoke("word " * CONTEXT)

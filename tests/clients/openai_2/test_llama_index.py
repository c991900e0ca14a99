"""LlamaIndex's OpenAILike: what people use for servers that speak OpenAI's API."""

import pytest
from live_server import CONTEXT, MODEL
from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike

CHAT = [ChatMessage(role="system", content="Answer briefly."), ChatMessage(role="user", content="How are you?")]


def connect(base_url: str, *, chat: bool) -> OpenAILike:
    return OpenAILike(
        model=MODEL,
        api_base=base_url,
        api_key="unused",
        is_chat_model=chat,
        context_window=CONTEXT,
        max_tokens=12,
        temperature=0,
        max_retries=0,
    )


@pytest.mark.parametrize("chat", [True, False])
def test_complete_and_stream(base_url: str, chat: bool) -> None:
    model = connect(base_url, chat=chat)
    whole = model.complete("Once upon a time").text
    assert whole
    assert list(model.stream_complete("Once upon a time"))[-1].text == whole


async def test_chat_and_stream(base_url: str) -> None:
    model = connect(base_url, chat=True)
    whole = model.chat(CHAT).message.content
    assert whole
    assert list(model.stream_chat(CHAT))[-1].message.content == whole
    assert (await model.achat(CHAT)).message.content == whole
    assert [each async for each in await model.astream_chat(CHAT)][-1].message.content == whole


def test_logprobs(base_url: str) -> None:
    answer = connect(base_url, chat=True).chat(CHAT, logprobs=True, top_logprobs=2)
    assert answer.logprobs

"""OpenAI's Python client: sync, async, streams, raw responses."""

from collections.abc import Iterator

import openai
import pytest
from live_server import CONTEXT, MODEL

MESSAGES = [{"role": "user", "content": "How are you?"}]
GREEDY = {"model": MODEL, "max_tokens": 30, "temperature": 0}


@pytest.fixture(scope="module")
def client(base_url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=base_url, api_key="unused", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def answer(client: openai.OpenAI) -> str:
    """What every way to ask must give."""
    text = client.chat.completions.create(messages=MESSAGES, **GREEDY).choices[0].message.content
    assert text
    return text


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL


def test_chat_has_usage_and_choices(client: openai.OpenAI, answer: str) -> None:
    asked = {**GREEDY, "max_tokens": 5}
    done = client.chat.completions.create(messages=MESSAGES, n=2, logprobs=True, top_logprobs=2, **asked)
    assert [answer.startswith(choice.message.content) for choice in done.choices] == [True] * 2
    assert done.usage.completion_tokens == 2 * len(done.choices[0].logprobs.content)
    assert len(done.choices[0].logprobs.content[0].top_logprobs) == 2


def test_streamed_chat(client: openai.OpenAI, answer: str) -> None:
    chunks = list(
        client.chat.completions.create(messages=MESSAGES, stream=True, stream_options={"include_usage": True}, **GREEDY)
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == answer
    assert chunks[-1].usage.completion_tokens > 0


def test_stream_helper(client: openai.OpenAI, answer: str) -> None:
    with client.chat.completions.stream(messages=MESSAGES, **GREEDY) as stream:
        kinds = {event.type for event in stream}
        assert stream.get_final_completion().choices[0].message.content == answer
    assert {"chunk", "content.delta", "content.done"} <= kinds


def test_raw_and_streaming_response(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(messages=MESSAGES, **GREEDY)
    assert raw.parse().id.endswith(raw.headers["x-request-id"])
    with client.chat.completions.with_streaming_response.create(messages=MESSAGES, **GREEDY) as response:
        assert response.status_code == 200
        assert "chat.completion" in "".join(response.iter_text())


def test_completions_of_a_list_with_echo(client: openai.OpenAI) -> None:
    prompts = ["Once upon a time", "The little boat"]
    done = client.completions.create(prompt=prompts, echo=True, logprobs=1, **GREEDY)
    assert [choice.text.startswith(prompt) for choice, prompt in zip(done.choices, prompts, strict=True)] == [True] * 2
    assert "".join(done.choices[1].logprobs.tokens) == done.choices[1].text


def test_an_answer_can_be_sent_back_as_it_came(client: openai.OpenAI) -> None:
    first = client.chat.completions.create(messages=MESSAGES, **GREEDY).choices[0].message
    turns = [*MESSAGES, first, {"role": "user", "content": "Are you sure?"}]
    assert client.chat.completions.create(messages=turns, **GREEDY).choices[0].message.role == "assistant"


def test_fields_of_other_servers(client: openai.OpenAI, answer: str) -> None:
    extra = {"chat_template_kwargs": {"enable_thinking": False}, "cache_prompt": True, "repeat_penalty": 1.0}
    done = client.chat.completions.create(
        messages=MESSAGES, reasoning_effort="low", store=True, user="me", extra_body=extra, **GREEDY
    )
    assert done.choices[0].message.content == answer


def test_seed_minus_one_is_random(client: openai.OpenAI) -> None:
    hot = {"model": MODEL, "max_tokens": 20, "temperature": 2, "seed": -1}
    texts = {client.completions.create(prompt="Once upon a time", **hot).choices[0].text for _ in range(3)}
    assert len(texts) > 1


def test_errors_have_their_classes(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(messages=MESSAGES, model="another")
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model=MODEL, prompt="word " * CONTEXT)
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(messages=[{"role": "nobody", "content": "x"}], model=MODEL)  # type: ignore[list-item]
    assert "messages.0" in caught.value.message


async def test_async(base_url: str, answer: str) -> None:
    async with openai.AsyncOpenAI(base_url=base_url, api_key="unused", max_retries=0) as client:
        done = await client.chat.completions.create(messages=MESSAGES, **GREEDY)
        assert done.choices[0].message.content == answer
        stream = await client.chat.completions.create(messages=MESSAGES, stream=True, **GREEDY)
        pieces = [chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices]
        assert "".join(pieces) == answer

"""The official OpenAI client against a real server: what our users use."""

from collections.abc import Iterator
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from tests.server.api.test_tools import CALL, TEMPLATE
from tests.server.applications import MODEL, Server, listening, make_server


def connect(url: str, *, api_key: str = "none", max_retries: int = 0) -> openai.OpenAI:
    direct = openai.DefaultHttpxClient(trust_env=False)  # a proxy of the environment cannot reach this machine
    return openai.OpenAI(base_url=f"{url}/v1", api_key=api_key, max_retries=max_retries, http_client=direct)


@pytest.fixture
def openai_client(url: str) -> Iterator[openai.OpenAI]:
    with connect(url) as client:
        yield client


def test_chat(openai_client: openai.OpenAI, server: Server) -> None:
    server.answer_with("good day")
    answer = openai_client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "hi"}],
        max_completion_tokens=50,
        logprobs=True,
        top_logprobs=1,
    )
    assert answer.choices[0].message.content == "good day"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 0
    assert answer.choices[0].logprobs is not None
    assert answer.choices[0].logprobs.content is not None
    assert answer.choices[0].logprobs.content[0].token == "g"
    assert answer._request_id == answer.id.removeprefix("chatcmpl-")


def test_an_answer_can_be_sent_back_as_it_came(openai_client: openai.OpenAI, server: Server) -> None:
    server.answer_with("yes")
    answer = openai_client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "hi"}])
    turns = [{"role": "user", "content": "hi"}, answer.choices[0].message, {"role": "user", "content": "sure?"}]
    again = openai_client.chat.completions.create(model=MODEL, messages=turns)  # type: ignore[arg-type]
    assert again.choices[0].message.content == "yes"


class Weather(BaseModel):
    """The weather of a city."""

    city: str


def test_tools_as_the_clients_helpers_use_them() -> None:
    server = make_server(TEMPLATE)
    server.service.max_model_len = 2000
    server.answer_with(f"<think>hm</think>Let me look.\n{CALL}")
    tool = openai.pydantic_function_tool(Weather, name="weather")
    messages: list[Any] = [{"role": "user", "content": "hi"}]
    with listening(server) as url, connect(url) as client:
        parsed = client.chat.completions.parse(model=MODEL, messages=messages, tools=[tool])
        with client.chat.completions.stream(model=MODEL, messages=messages, tools=[tool]) as stream:
            streamed = stream.get_final_completion()
        for choice in (parsed.choices[0], streamed.choices[0]):
            assert choice.finish_reason == "tool_calls"
            assert choice.message.content == "Let me look."
            assert choice.message.reasoning_content == "hm"  # type: ignore[attr-defined]
            [call] = choice.message.tool_calls or []
            assert call.function.parsed_arguments == Weather(city="Köln")
        result = {"role": "tool", "tool_call_id": call.id, "content": "rain"}
        again = client.chat.completions.create(
            model=MODEL, messages=[*messages, streamed.choices[0].message, result], tools=[tool]
        )
        assert again.choices[0].message.tool_calls
    assert all(request.sampling.grammar for request in server.engine.submitted), "the tool is strict"


def test_streamed_chat(openai_client: openai.OpenAI, server: Server) -> None:
    server.answer_with("größer 你好")
    chunks = list(
        openai_client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "hi"}],
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "größer 你好"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == len("größer 你好".encode()) + 1


def test_the_stream_helper(openai_client: openai.OpenAI, server: Server) -> None:
    server.answer_with("abc")
    with openai_client.chat.completions.stream(
        model=MODEL, messages=[{"role": "user", "content": "hi"}], stream_options={"include_usage": True}
    ) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.content == "abc"


def test_completions_streamed_and_not(openai_client: openai.OpenAI, server: Server) -> None:
    server.answer_with(" world")
    answer = openai_client.completions.create(model=MODEL, prompt="hello", logprobs=1)
    assert answer.choices[0].text == " world"
    assert answer.choices[0].logprobs is not None
    chunks = openai_client.completions.create(model=MODEL, prompt="hello", stream=True)
    assert "".join(chunk.choices[0].text for chunk in chunks) == " world"


def test_models(openai_client: openai.OpenAI) -> None:
    assert [model.id for model in openai_client.models.list()] == [MODEL]
    assert openai_client.models.retrieve(MODEL).object == "model"


def test_errors_become_the_clients_exceptions(openai_client: openai.OpenAI, server: Server) -> None:
    messages = [{"role": "user", "content": "hi"}]
    with pytest.raises(openai.NotFoundError) as missing:
        openai_client.chat.completions.create(model="gpt-9", messages=messages)  # type: ignore[arg-type]
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as bad:
        openai_client.chat.completions.create(model=MODEL, messages=messages, temperature=6)  # type: ignore[arg-type]
    assert bad.value.param == "temperature"
    server.engine.occupied = server.engine.capacity
    with pytest.raises(openai.RateLimitError) as full:
        openai_client.chat.completions.create(model=MODEL, messages=messages)  # type: ignore[arg-type]
    assert full.value.response.headers["retry-after"] == "3"


def test_an_error_inside_a_stream_is_raised(openai_client: openai.OpenAI, server: Server) -> None:
    server.answer_with("abcdef")
    server.engine.fail_after = 3
    stream = openai_client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "hi"}], stream=True
    )
    with pytest.raises(openai.APIError, match="the step failed"):
        list(stream)


def test_the_client_comes_back_after_retry_after(url: str, server: Server) -> None:
    server.answer_with("ab")
    server.engine.retry_after = 0.1
    occupied = iter([server.engine.capacity])
    submit = server.engine.submit

    def full_once(request: Any, **given: Any) -> object:
        server.engine.occupied = next(occupied, 0)
        return submit(request, **given)

    server.engine.submit = full_once  # type: ignore[method-assign,assignment]
    with connect(url, max_retries=1) as client:
        assert client.completions.create(model=MODEL, prompt="x").choices[0].text == "ab"


def test_the_api_key_is_the_clients_bearer() -> None:
    server = make_server(api_key="right")
    with listening(server) as url, connect(url, api_key="right") as client:
        assert [model.id for model in client.models.list()] == [MODEL]
        with pytest.raises(openai.AuthenticationError):
            client.with_options(api_key="wrong").models.list()

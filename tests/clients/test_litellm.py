"""litellm by the names of its providers, and its fallback when a prompt is too long."""

from typing import Any

import litellm
import pytest
from live_server import CONTEXT, MODEL

MESSAGES = [{"role": "user", "content": "How are you?"}]
LONG = [{"role": "user", "content": "word " * CONTEXT}]
PROVIDERS = ["openai", "hosted_vllm", "custom_openai", "lm_studio", "llamafile", "litellm_proxy"]


@pytest.fixture
def options(base_url: str) -> dict[str, Any]:
    return {"api_base": base_url, "api_key": "unused", "max_tokens": 12, "temperature": 0, "num_retries": 0}


@pytest.mark.parametrize("provider", PROVIDERS)
def test_chat_and_stream(options: dict[str, Any], provider: str) -> None:
    asked = {"model": f"{provider}/{MODEL}", "messages": MESSAGES, **options}
    whole = litellm.completion(**asked).choices[0].message.content
    assert whole
    chunks = list(litellm.completion(stream=True, stream_options={"include_usage": True}, **asked))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == whole


async def test_async(options: dict[str, Any]) -> None:
    answer = await litellm.acompletion(model=f"openai/{MODEL}", messages=MESSAGES, **options)
    assert answer.usage.completion_tokens > 0


def test_sampling_of_other_servers(options: dict[str, Any]) -> None:
    asked = {"model": f"hosted_vllm/{MODEL}", "messages": MESSAGES, **options}
    extra = {"top_k": 20, "min_p": 0.05, "repetition_penalty": 1.1, "reasoning_effort": "low"}
    assert litellm.completion(**asked, **extra).choices[0].message.content


def test_text_completion(options: dict[str, Any]) -> None:
    asked = {"model": f"text-completion-openai/{MODEL}", "prompt": "Once upon a time", **options}
    answer = litellm.text_completion(**asked, echo=True, logprobs=1)
    assert answer.choices[0].text.startswith("Once upon a time")
    assert answer.choices[0].logprobs


def test_overflow_is_recognised(options: dict[str, Any]) -> None:
    with pytest.raises(litellm.ContextWindowExceededError):
        litellm.completion(model=f"openai/{MODEL}", messages=LONG, **options)


def test_overflow_falls_back(options: dict[str, Any]) -> None:
    """The other model is the same server, which is asked to cut the prompt."""
    del options["num_retries"]
    model = {"model": f"openai/{MODEL}", **options}
    cutting = {**model, "extra_body": {"truncate_prompt_tokens": 100}}
    router = litellm.Router(
        model_list=[
            {"model_name": "short", "litellm_params": model},
            {"model_name": "long", "litellm_params": cutting},
        ],
        context_window_fallbacks=[{"short": ["long"]}],
        num_retries=0,
    )
    assert router.completion("short", LONG).usage.prompt_tokens == 100
    assert router.completion("short", MESSAGES).usage.prompt_tokens < 100  # negative control: no need to fall back

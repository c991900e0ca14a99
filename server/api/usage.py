"""Token counts of an answer, in OpenAI's shape."""

from collections.abc import Sequence

from pydantic import BaseModel

from server.generation.stream import RunningGeneration


class PromptTokensDetails(BaseModel):
    cached_tokens: int


class UsageInfo(BaseModel):
    """`cached_tokens` of the prompt tokens were found in the prefix cache and not computed again."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


def usage_of(generations: Sequence[RunningGeneration], n: int = 1) -> UsageInfo:
    """Sum over generations; a prompt with `n` choices counts once, as its first choice found it."""
    usages = [generation.usage for generation in generations]
    prompt_tokens = sum(usage.prompt_tokens for usage in usages[::n])
    completion_tokens = sum(usage.completion_tokens for usage in usages)
    return UsageInfo(
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        total_tokens=prompt_tokens + completion_tokens,
        prompt_tokens_details=PromptTokensDetails(cached_tokens=sum(usage.cached_tokens for usage in usages[::n])),
    )

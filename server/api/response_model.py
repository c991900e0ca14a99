"""What answers share: token counts in OpenAI's shape, and fields that are left out if there is nothing to say."""

from collections.abc import Sequence
from typing import Annotated, Any, Protocol, TypeVar

from pydantic import BaseModel, Field

from server.generation.stream import Usage, fewest_experts

Value = TypeVar("Value")


def _is_none(value: Any) -> bool:
    return value is None


def _is_empty(value: list[str]) -> bool:
    return not value


Omittable = Annotated[Value | None, Field(exclude_if=_is_none)]
Warnings = Annotated[list[str], Field(exclude_if=_is_empty, description="Fields of the request that were ignored.")]


class PromptTokensDetails(BaseModel):
    cached_tokens: int


class CompletionTokensDetails(BaseModel):
    reasoning_tokens: int


class UsageInfo(BaseModel):
    """`cached_tokens` of the prompt tokens were found in the prefix cache, so they were not computed.

    `completion_tokens_details` is there only if there was reasoning, `experts_per_token` only if the request or the
    server chose the number; of several generations it is the smallest.
    """

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: Omittable[CompletionTokensDetails] = None
    experts_per_token: Omittable[int] = None


class Counted(Protocol):
    """A generation or a chat."""

    @property
    def usage(self) -> Usage: ...


def usage_of(generations: Sequence[Counted], n: int = 1) -> UsageInfo:
    """Sum over generations. A prompt with `n` choices counts once, with the cached tokens of its first choice."""
    usages = [generation.usage for generation in generations]
    prompt_tokens = sum(usage.prompt_tokens for usage in usages[::n])
    completion_tokens = sum(usage.completion_tokens for usage in usages)
    reasoning_tokens = sum(usage.reasoning_tokens for usage in usages)
    return UsageInfo(
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        total_tokens=prompt_tokens + completion_tokens,
        prompt_tokens_details=PromptTokensDetails(cached_tokens=sum(usage.cached_tokens for usage in usages[::n])),
        completion_tokens_details=(
            CompletionTokensDetails(reasoning_tokens=reasoning_tokens) if reasoning_tokens else None
        ),
        experts_per_token=fewest_experts(usages),
    )

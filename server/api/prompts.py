"""The four forms of a completion prompt: a text, texts, token ids, lists of token ids."""

import asyncio
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, Discriminator, Field, Tag

from server.api.request_model import FirstErrorOnly, Text, WholeNumber
from server.api.sampling import CacheSalt, TokenId, not_zero
from server.generation.prompt import Prompt
from server.generation.service import GenerationService

MAX_PROMPTS = 64

TokenIds = Annotated[list[TokenId], FirstErrorOnly, Field(min_length=1, max_length=262_144)]


def prompt_form(value: Any) -> str:
    """The tag of a prompt's form, for error messages."""
    if not isinstance(value, list):
        return "[text]"
    first = value[0] if value else None
    if isinstance(first, list):
        return "[lists of token ids]"
    return "[token ids]" if isinstance(first, int) else "[texts]"


PromptField = Annotated[
    Annotated[Text, Tag("[text]")]
    | Annotated[list[Text], FirstErrorOnly, Field(min_length=1, max_length=MAX_PROMPTS), Tag("[texts]")]
    | Annotated[TokenIds, Tag("[token ids]")]
    | Annotated[
        list[TokenIds], FirstErrorOnly, Field(min_length=1, max_length=MAX_PROMPTS), Tag("[lists of token ids]")
    ],
    Discriminator(prompt_form),
]


PromptLength = Annotated[
    int,
    Field(ge=-1, le=10_000_000, description="Keep that many tokens of the end; -1: the context."),
    AfterValidator(not_zero),
    WholeNumber,
]


class PromptFields(BaseModel):
    """How a text becomes token ids."""

    parse_special: Annotated[bool, Field(description="false: special tokens in the text are ordinary text.")] = True
    add_special_tokens: Annotated[bool, Field(description="false: no begin-of-text token is put before the text.")] = (
        True
    )
    truncate_prompt_tokens: PromptLength | None = None
    cache_salt: CacheSalt | None = None


def truncated(prompt: Prompt, num_tokens: int | None, service: GenerationService) -> Prompt:
    """The last tokens of a prompt, as many as `truncate_prompt_tokens` says. None: all of them."""
    if num_tokens is None:
        return prompt
    return prompt.truncated(service.max_model_len - 1 if num_tokens < 0 else num_tokens)


async def read_prompts(
    service: GenerationService, prompt: str | list[str] | list[int] | list[list[int]], fields: PromptFields
) -> list[Prompt]:
    """Encode each text, check each list of ids. Raises InvalidRequestError for ids outside the vocabulary."""
    prompts = []
    for item in prompt_items(prompt):
        await asyncio.sleep(0)  # other requests get their turn between two texts
        if isinstance(item, str):
            read = await service.text_prompt(
                item, parse_special=fields.parse_special, add_special_tokens=fields.add_special_tokens
            )
        else:
            read = service.token_prompt(item)
        prompts.append(truncated(read, fields.truncate_prompt_tokens, service).salted(fields.cache_salt))
    return prompts


def prompt_items(prompt: str | list[str] | list[int] | list[list[int]]) -> list[Any]:
    """One entry per prompt: a text, or a list of token ids."""
    one = isinstance(prompt, str) or isinstance(prompt[0], int)
    return [prompt] if one else list(prompt)

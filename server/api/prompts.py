"""The four forms of a completion prompt: a text, texts, token ids, lists of token ids."""

from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag

from server.api.request_model import Text
from server.api.sampling import TokenId
from server.generation.prompt import Prompt
from server.generation.service import GenerationService

MAX_PROMPTS = 64

TokenIds = Annotated[list[TokenId], Field(min_length=1, max_length=262_144)]


def _form(value: Any) -> str:
    if not isinstance(value, list):
        return "[text]"
    first = value[0] if value else None
    if isinstance(first, list):
        return "[lists of token ids]"
    return "[token ids]" if isinstance(first, int) else "[texts]"


PromptField = Annotated[
    Annotated[Text, Tag("[text]")]
    | Annotated[list[Text], Field(min_length=1, max_length=MAX_PROMPTS), Tag("[texts]")]
    | Annotated[TokenIds, Tag("[token ids]")]
    | Annotated[list[TokenIds], Field(min_length=1, max_length=MAX_PROMPTS), Tag("[lists of token ids]")],
    Discriminator(_form),
]


async def read_prompts(
    service: GenerationService, prompt: str | list[str] | list[int] | list[list[int]]
) -> list[Prompt]:
    """Encode each text, check each list of ids. Raises InvalidRequestError for ids outside the vocabulary."""
    if isinstance(prompt, str):
        return [await service.text_prompt(prompt)]
    prompts = []
    token_ids: list[int] = []
    for item in prompt:
        if isinstance(item, str):
            prompts.append(await service.text_prompt(item))
        elif isinstance(item, list):
            prompts.append(service.token_prompt(item))
        else:
            token_ids.append(item)
    return [service.token_prompt(token_ids)] if token_ids else prompts

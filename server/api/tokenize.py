"""POST /v1/tokenize and /v1/detokenize: text to token ids and back."""

from functools import partial
from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, Field

from server.api.dependencies import Context
from server.api.messages import ChatFields
from server.api.request_model import FirstErrorOnly, ModelName, RequestBody, Text
from server.api.response_model import Omittable, Warnings
from server.api.sampling import TokenId
from server.errors import InvalidRequestError
from server.generation.run_in_thread import run_in_thread
from server.generation.service import GenerationService

router = APIRouter(prefix="/v1", tags=["Tokens"])


class TokenizeRequest(RequestBody, ChatFields):
    """Either `prompt`, encoded as plain text, or `messages`, rendered as /v1/chat/completions would."""

    model: ModelName | None = None
    prompt: Text | None = None
    add_special_tokens: Annotated[bool, Field(description="true: a begin-of-text token as in /v1/completions.")] = False
    parse_special: Annotated[bool, Field(description="false: special tokens in the text are ordinary text.")] = True
    return_token_strs: bool = False


class TokenizeResponse(BaseModel):
    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: Omittable[list[str]] = None
    warnings: Warnings = []


class DetokenizeRequest(RequestBody):
    model: ModelName | None = None
    tokens: Annotated[list[TokenId], FirstErrorOnly, Field(max_length=262_144)]


class DetokenizeResponse(BaseModel):
    prompt: str
    warnings: Warnings = []


@router.post("/tokenize", summary="Text to token ids")
async def tokenize(body: TokenizeRequest, context: Context) -> TokenizeResponse:
    """Count tokens before sending them. A plain `prompt` gets no begin-of-text token here by default."""
    service = context.accept(body)
    tokens = await _token_ids(context, body)
    return TokenizeResponse(
        count=len(tokens),
        max_model_len=service.max_model_len,
        tokens=tokens,
        token_strs=await run_in_thread(partial(_token_strs, service), tokens) if body.return_token_strs else None,
        warnings=body.warnings,
    )


async def _token_ids(context: Context, body: TokenizeRequest) -> list[int]:
    if (body.prompt is None) == (body.messages is None):
        raise InvalidRequestError("Give either prompt or messages.", param="prompt")
    if body.prompt is not None:
        return await context.service.encode(
            body.prompt, parse_special=body.parse_special, add_special_tokens=body.add_special_tokens
        )
    return list((await context.chat.prompt(body.chat_request())).token_ids)


def _token_strs(service: GenerationService, tokens: list[int]) -> list[str]:
    return [service.tokenizer.token_bytes(token_id).decode("utf-8", "replace") for token_id in tokens]


@router.post("/detokenize", summary="Token ids to text")
async def detokenize(body: DetokenizeRequest, context: Context) -> DetokenizeResponse:
    """The text of token ids; ids outside the vocabulary are refused."""
    service = context.accept(body)
    service.check_token_ids(body.tokens, "tokens")
    prompt = await run_in_thread(service.tokenizer.decode, body.tokens)
    return DetokenizeResponse(prompt=prompt, warnings=body.warnings)

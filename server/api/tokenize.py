"""POST /v1/tokenize and /v1/detokenize: text to token ids and back."""

from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, Field

from server.api.dependencies import Service
from server.api.messages import Messages, template_messages
from server.api.request_model import ModelName, RequestModel, Text
from server.api.sampling import TokenId
from server.errors import InvalidRequestError

router = APIRouter(prefix="/v1", tags=["Tokens"])


class TokenizeRequest(RequestModel):
    """Either `prompt`, encoded as plain text, or `messages`, rendered as /v1/chat/completions would."""

    model: ModelName | None = None
    prompt: Text | None = None
    messages: Messages | None = None


class TokenizeResponse(BaseModel):
    count: int
    max_model_len: int
    tokens: list[int]


class DetokenizeRequest(RequestModel):
    model: ModelName | None = None
    tokens: Annotated[list[TokenId], Field(max_length=262_144)]


class DetokenizeResponse(BaseModel):
    prompt: str


@router.post("/tokenize", summary="Text to token ids")
async def tokenize(body: TokenizeRequest, service: Service) -> TokenizeResponse:
    """Count tokens before sending them. A plain `prompt` gets no begin-of-text token here."""
    service.check_model(body.model)
    if (body.prompt is None) == (body.messages is None):
        raise InvalidRequestError("Give either prompt or messages.", param="prompt")
    if body.messages is not None:
        prompt = await service.chat_prompt(service.prompts.chat(template_messages(body.messages)))
    else:
        prompt = await service.text_prompt(body.prompt or "")
    tokens = list(prompt.token_ids[prompt.first_text_token :])
    return TokenizeResponse(count=len(tokens), max_model_len=service.max_model_len, tokens=tokens)


@router.post("/detokenize", summary="Token ids to text")
async def detokenize(body: DetokenizeRequest, service: Service) -> DetokenizeResponse:
    """The text of token ids; ids outside the vocabulary are refused."""
    service.check_model(body.model)
    service.check_token_ids(body.tokens, "tokens")
    return DetokenizeResponse(prompt=service.tokenizer.decode(body.tokens))

"""Log-probabilities of a prompt, as vLLM has them in both of OpenAI's endpoints."""

from dataclasses import replace

from pydantic import BaseModel

from server.engine.types import SamplingParams
from server.errors import InvalidRequestError
from server.generation.logprobs import DecodedLogprobs, DecodedToken
from server.generation.prompt import Prompt
from server.generation.stream import GenerationResult


class PromptLogprob(BaseModel):
    """`rank` is null for a token that is not among the alternatives that were asked for."""

    logprob: float
    rank: int | None
    decoded_token: str


PromptLogprobs = list[dict[str, PromptLogprob] | None]


def with_prompt_logprobs(sampling: SamplingParams, top: int | None, *, stream: bool) -> SamplingParams:
    """Ask for the `top` likeliest tokens at each place of the prompt, if not None.

    The engine has one number of alternatives for prompt and answer: whoever shows those of the answer cuts them to what
    was asked for (`server.generation.logprobs.limited`). Raises InvalidRequestError for a stream.
    """
    if top is None:
        return sampling
    if stream:
        raise InvalidRequestError(
            "prompt_logprobs are not part of streams; set stream to false.", param="prompt_logprobs"
        )
    return replace(sampling, prompt_logprobs=True, logprobs=max(top, sampling.logprobs or 0))


def prompt_logprobs(prompt: Prompt, result: GenerationResult, top: int | None) -> PromptLogprobs | None:
    """One entry for each token of the prompt: the token itself and the `top` likeliest, by token id.

    Null for the first, which nothing precedes. None if they were not asked for.
    """
    if top is None:
        return None
    missing: PromptLogprobs = [None] * (len(prompt.token_ids) - len(result.prompt_logprobs))
    return [*missing, *(_by_token_id(entry, top) for entry in result.prompt_logprobs)]


def _by_token_id(entry: DecodedLogprobs, top: int) -> dict[str, PromptLogprob]:
    ranks = {token.token_id: rank for rank, token in enumerate(entry.top, 1)}
    tokens = (entry.chosen, *entry.top[:top])
    return {str(token.token_id): _prompt_logprob(token, ranks.get(token.token_id)) for token in tokens}


def _prompt_logprob(token: DecodedToken, rank: int | None) -> PromptLogprob:
    return PromptLogprob(logprob=token.logprob or 0.0, rank=rank, decoded_token=token.text)

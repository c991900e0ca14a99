"""Which requests the engine accepts: each accepted one can be finished, and cannot harm another request."""

import math
from collections.abc import Callable, Collection, Mapping
from itertools import pairwise

from model.config import ModelConfig, check_experts_per_token, check_forced_experts, check_masked_experts
from server.engine.types import EngineRequest, RoutingParams, SamplingParams, ThinkingBudget

MAX_BEAM_WIDTH = 8
_BOUNDS: Mapping[str, tuple[Callable[[float], bool], str]] = {
    "temperature": (lambda value: value >= 0, "give 0 (greedy) or more"),
    "top_k": (lambda value: value >= 0, "give 0 (no limit) or more"),
    "top_p": (lambda value: 0 < value <= 1, "give more than 0 and at most 1"),
    "min_p": (lambda value: 0 <= value <= 1, "give 0 to 1"),
    "repetition_penalty": (lambda value: value > 0, "give more than 0 (1 changes nothing)"),
    "presence_penalty": (lambda value: -2 <= value <= 2, "give -2 to 2"),
    "frequency_penalty": (lambda value: -2 <= value <= 2, "give -2 to 2"),
    "min_tokens": (lambda value: value >= 0, "give 0 or more"),
}


def check_request(
    request: EngineRequest,
    network: ModelConfig,
    *,
    max_model_len: int,
    adapters: Collection[str] = (),
    adaptive_most: int | None = None,
) -> None:
    """Raises ValueError that says what is wrong, what is allowed, and what to do.

    `adaptive_most`: the largest number of experts per token that the engine may choose for a request.
    """
    prompt, max_tokens, vocab_size = request.prompt_token_ids, request.sampling.max_tokens, network.vocab_size
    if not prompt:
        raise ValueError("the prompt is empty: give at least one token id")
    if min(prompt) < 0 or max(prompt) >= vocab_size:
        wrong = next(token for token in prompt if not 0 <= token < vocab_size)
        raise ValueError(f"the prompt has token id {wrong}: this model knows 0 to {vocab_size - 1}")
    if max_tokens < 0:
        raise ValueError(f"max_tokens is {max_tokens}: give 0 or more")
    if len(prompt) + max_tokens > max_model_len:
        raise ValueError(
            f"the prompt has {len(prompt)} tokens and max_tokens is {max_tokens}, together more than the "
            f"{max_model_len} the engine can hold: shorten the prompt or lower max_tokens"
        )
    boundaries = request.boundaries
    if any(not 0 < b <= len(prompt) for b in boundaries) or any(a >= b for a, b in pairwise(boundaries)):
        raise ValueError(f"boundaries are {boundaries}: give ascending positions from 1 to {len(prompt)}")
    if request.adapter is not None and request.adapter not in adapters:
        raise ValueError(f"adapter is {request.adapter!r}: this network has {', '.join(adapters) or 'none'}")
    check_routing(request.routing, network, adaptive_most)
    check_sampling(request.sampling, vocab_size)


def check_routing(routing: RoutingParams, network: ModelConfig, adaptive_most: int | None = None) -> None:
    """Raises ValueError for experts that the network's routers cannot choose; see `check_request`."""
    masked = dict(routing.masked_experts)
    if routing.experts_per_token is not None:
        check_experts_per_token(network, routing.experts_per_token)
    check_masked_experts(network, masked, routing.experts_per_token)
    if routing.adaptive and routing.experts_per_token is None and adaptive_most is not None:
        check_masked_experts(network, masked, adaptive_most)
    check_forced_experts(network, dict(routing.forced_experts), masked)


def check_sampling(sampling: SamplingParams, vocab_size: int) -> None:
    """Raises ValueError for parameters with which the sampler cannot work."""
    _check_finite(sampling)
    for name, (is_allowed, advice) in _BOUNDS.items():
        if not is_allowed(value := getattr(sampling, name)):
            raise ValueError(f"{name} is {value}: {advice}")
    if sampling.logprobs is not None and not 0 <= sampling.logprobs <= vocab_size:
        raise ValueError(f"logprobs is {sampling.logprobs}: give 0 to {vocab_size}, or None")
    biased = [token for token, _ in sampling.logit_bias]
    if len(set(biased)) < len(biased):
        raise ValueError("logit_bias names a token id twice: give one bias per token")
    if not all(sampling.bad_words):
        raise ValueError("a word of bad_words is empty: give at least one token id for each")
    if sampling.thinking_budget is not None:
        _check_thinking(sampling.thinking_budget, vocab_size)
    in_bad_words = (token for word in sampling.bad_words for token in word)
    for token in (*biased, *sampling.stop_token_ids, *sampling.allowed_token_ids, *in_bad_words):
        if not 0 <= token < vocab_size:
            raise ValueError(
                f"logit_bias, stop_token_ids, allowed_token_ids or bad_words name token id {token}: this model knows 0 "
                f"to {vocab_size - 1}"
            )
    if sampling.beam_width != 1:
        _check_beam(sampling)


def _check_thinking(budget: ThinkingBudget, vocab_size: int) -> None:
    if budget.max_tokens < 0:
        raise ValueError(f"the thinking budget is {budget.max_tokens}: give 0 tokens or more")
    if not budget.close or not budget.forced:
        raise ValueError("a thinking budget needs the tokens that end thinking")
    if not all(0 <= token < vocab_size for token in (*budget.open, *budget.close, *budget.forced)):
        raise ValueError(f"the thinking budget names a token id outside of 0 to {vocab_size - 1}")


def _check_beam(sampling: SamplingParams) -> None:
    if not 1 <= sampling.beam_width <= MAX_BEAM_WIDTH:
        raise ValueError(f"beam_width is {sampling.beam_width}: give 1 (no search) to {MAX_BEAM_WIDTH}")
    if not sampling.max_tokens:
        raise ValueError("a beam search needs something to search for: give max_tokens of 1 or more")
    if meaningless := unsupported_by_beam_search(sampling):
        raise ValueError(f"{meaningless[0]} has no meaning in a beam search: leave it out, or set beam_width to 1")


def unsupported_by_beam_search(sampling: SamplingParams) -> list[str]:
    """The parameters that were set but say how to choose a single token, which a beam search does not do."""
    plain = SamplingParams(sampling.max_tokens, temperature=0.0)
    meaningful = {"max_tokens", "beam_width", "stop_token_ids", "min_tokens", "seed"}
    return [
        name
        for name in SamplingParams.__slots__
        if name not in meaningful and getattr(sampling, name) != getattr(plain, name)
    ]


def _check_finite(sampling: SamplingParams) -> None:
    numbers = {
        name: getattr(sampling, name)
        for name in ("temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty")
    }
    numbers |= {f"logit_bias[{token}]": bias for token, bias in sampling.logit_bias}
    for name, value in numbers.items():
        if not math.isfinite(value):
            raise ValueError(f"{name} is {value}: give a finite number")

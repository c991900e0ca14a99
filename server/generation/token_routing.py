"""Tokens and their experts as people read them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from server.engine.types import RoutingParams, TokenRouting
from server.generation.logprobs import TokenBytes, token_text
from server.generation.model_facts import ModelFacts

MAX_CHOICES = 2**17  # tokens times layers times experts of one answer, which is held in memory until it is complete


@dataclass(frozen=True)  # no slots: vars() of it becomes JSON in half the time
class RoutedToken:
    """A token, and by layer the experts of it or of the step it was sampled from, with their gates, largest first.

    The names are those of the JSON that clients get. `token` is its text, see `token_text`.
    """

    id: int
    token: str
    experts: Sequence[Sequence[int]]
    gates: Sequence[Sequence[float]]


def within_bounds(routing: RoutingParams, facts: ModelFacts, generations: int) -> RoutingParams:
    """The same with a limit on the tokens whose routing each of the `generations` of a request may return."""
    returned, router = routing.returned, facts.router
    if returned is None or router is None:
        return routing
    most = max([router.most_experts_per_token, *(len(experts) for _, experts in routing.forced_experts)])
    experts = min(returned.top or most, most)
    limit = max(1, MAX_CHOICES // (len(returned.layers) * experts * generations))
    return replace(routing, returned=replace(returned, max_tokens=limit))


def routed_tokens(
    tokenizer: TokenBytes, token_ids: Sequence[int], routing: Sequence[TokenRouting]
) -> tuple[RoutedToken, ...]:
    """The tokens with their routing; the routing may end before the tokens do."""
    if not routing:
        return ()
    return tuple(
        RoutedToken(token_id, token_text(tokenizer.token_bytes(token_id)), entry.experts, entry.gates)
        for token_id, entry in zip(token_ids, routing, strict=False)
    )

"""What the router does with each task and language: balance, certainty, and which experts a domain uses.

Shapes: T tokens, E experts, K choices, D domains.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import tokenizers
import torch
from torch import Tensor

from model.batch import RectangularBatch
from model.evaluation.data import EvaluationSource
from model.evaluation.tables import table
from model.layers.router import Routing
from model.network import CausalLM
from model.training.examples import ExampleEncoder, conversations
from model.training.losses import max_violation

DEAD_SHARE = 0.1  # of an even share: an expert that gets less is dead
CHUNK = 16  # the training form of the recurrence works on whole chunks

RouteTokens = Callable[[Sequence[int]], Sequence[Routing | None]]  # a routing per layer, None where it is dense


@dataclass(frozen=True, slots=True)
class LayerRouting:
    """One routed layer over all tokens. Entropies and information are in bits.

    `expert_shares` are the shares of the computed (token, expert) pairs, by domain and expert.
    """

    layer: int
    mean_k: float  # experts a token
    max_violation: float  # how far the busiest expert is above the mean load
    dead_experts: int
    marginal_entropy: float  # of the mean router probabilities: log2 of the experts when they are used evenly
    conditional_entropy: float  # mean over tokens, of a token's router probabilities: 0 when it is certain
    domain_information: float  # between a token's domain and its expert, domains weighing the same
    expert_shares: tuple[tuple[float, ...], ...]

    @property
    def token_information(self) -> float:
        """I(token; expert): how much the token decides, 0 for a router that treats all tokens alike."""
        return self.marginal_entropy - self.conditional_entropy


@dataclass(frozen=True, slots=True)
class RoutingReport:
    """The routed layers, and the domains in the order of their expert shares."""

    domains: tuple[str, ...]
    tokens: int
    layers: tuple[LayerRouting, ...]

    def to_dict(self) -> dict[str, Any]:
        layers = [{**asdict(layer), "token_information": layer.token_information} for layer in self.layers]
        return {"domains": list(self.domains), "tokens": self.tokens, "layers": layers}

    def to_markdown(self) -> str:
        """One table by layer, and one of each domain's busiest experts."""
        return f"{self._layer_table()}\n\nThe busiest experts of each domain, and their share of its tokens:\n\n" + (
            self._domain_table()
        )

    def _layer_table(self) -> str:
        header = ("layer", "mean k", "MaxVio", "dead", "H(expert)", "H(expert given token)", "I(token; expert)")
        return table(
            (*header, "I(domain; expert)"),
            [
                [str(la.layer), f"{la.mean_k:.2f}", f"{la.max_violation:.2f}", str(la.dead_experts)]
                + [f"{bits:.2f}" for bits in (la.marginal_entropy, la.conditional_entropy, la.token_information)]
                + [f"{la.domain_information:.3f}"]
                for la in self.layers
            ],
        )

    def _domain_table(self) -> str:
        rows = [
            [domain, *(_busiest(layer.expert_shares[number]) for layer in self.layers)]
            for number, domain in enumerate(self.domains)
        ]
        return table(("domain", *(f"layer {layer.layer}" for layer in self.layers)), rows)


class _LayerCount:
    """Sums over the tokens of one layer."""

    def __init__(self, layer: int, domains: int, experts: int) -> None:
        self.layer = layer
        self.load_DE = torch.zeros(domains, experts, dtype=torch.float64)
        self.probability_E = torch.zeros(experts, dtype=torch.float64)
        self.entropy = 0.0
        self.tokens = 0

    def add(self, domain: int, routing: Routing) -> None:
        probabilities_TE = routing.scores_TE.double().softmax(-1)
        used_TK = routing.weights_TK > 0
        self.load_DE[domain] += torch.bincount(routing.experts_TK[used_TK], minlength=self.load_DE.shape[1])
        self.probability_E += probabilities_TE.sum(0)
        self.entropy += float(entropy(probabilities_TE).sum())
        self.tokens += len(probabilities_TE)

    def result(self) -> LayerRouting:
        load_E = self.load_DE.sum(0)
        shares_DE = self.load_DE / self.load_DE.sum(1, keepdim=True).clamp(min=1)
        return LayerRouting(
            layer=self.layer,
            mean_k=float(load_E.sum()) / self.tokens,
            max_violation=max_violation(load_E),
            dead_experts=int((load_E < DEAD_SHARE * load_E.mean()).sum()),
            marginal_entropy=float(entropy(self.probability_E / self.tokens)),
            conditional_entropy=self.entropy / self.tokens,
            domain_information=float(entropy(shares_DE.mean(0)) - entropy(shares_DE).mean()),
            expert_shares=tuple(tuple(row) for row in shares_DE.tolist()),
        )


def entropy(probabilities: Tensor) -> Tensor:
    """Of distributions in the last dimension, in bits."""
    return torch.special.entr(probabilities).sum(-1) / math.log(2)


def routing_report(route: RouteTokens, domains: Mapping[str, Iterable[Sequence[int]]]) -> RoutingReport:
    """Route the token sequences of each domain. ValueError where no layer has a router or there is no token.

    Probabilities are the softmax of the router's logits: for an algorithm that ignores them, such as hashing, entropies
    and I(token; expert) say nothing, while loads and I(domain; expert) do.
    """
    counts: dict[int, _LayerCount] = {}
    tokens = 0
    for number, sequences in enumerate(domains.values()):
        for sequence in sequences:
            tokens += len(sequence)
            for layer, routing in enumerate(route(sequence)):
                if routing is not None:
                    experts = routing.scores_TE.shape[1]
                    counts.setdefault(layer, _LayerCount(layer, len(domains), experts)).add(number, routing)
    if not counts:
        raise ValueError(f"nothing was routed: {tokens} tokens in {len(domains)} domains, or no layer has a router")
    return RoutingReport(tuple(domains), tokens, tuple(counts[layer].result() for layer in sorted(counts)))


def network_routings(network: CausalLM) -> RouteTokens:
    """The routings of a network in process, one sequence at a time."""

    @torch.no_grad()
    def route(tokens: Sequence[int]) -> list[Routing | None]:
        padding = -len(tokens) % CHUNK
        _, routings = network(RectangularBatch(torch.tensor([[*tokens, *[0] * padding]])))
        return [None if routing is None else _first(routing, len(tokens)) for routing in routings]

    return route


def routing_domains(sources: Sequence[EvaluationSource], tokenizer: tokenizers.Tokenizer) -> dict[str, list[list[int]]]:
    """Token sequences by task and language, in the form of training: such as "translate en-zh" and "chat zh"."""
    encoder = ExampleEncoder(tokenizer)
    domains: dict[str, list[list[int]]] = {}
    for source in sources:
        language = source.language()
        for row in source.rows:
            for number, draft in enumerate(conversations(row, with_instructions=False)):
                name = _direction(row, number) if source.task == "translate" else language
                examples = [example for encoded in encoder.encode([draft]) for example in encoded]
                domains.setdefault(f"{source.task} {name}", []).extend(e.token_ids.tolist() for e in examples)
    return domains


def _direction(row: Mapping[str, str], number: int) -> str:
    languages = (row["source_lang"], row["target_lang"])
    return "-".join(languages if number == 0 else reversed(languages))


def _first(routing: Routing, count: int) -> Routing:
    return Routing(routing.weights_TK[:count], routing.experts_TK[:count], routing.scores_TE[:count])


def _busiest(shares: Sequence[float], count: int = 3) -> str:
    busiest = sorted(range(len(shares)), key=lambda expert: -shares[expert])[:count]
    return ", ".join(f"{expert}: {100 * shares[expert]:.0f} %" for expert in busiest)

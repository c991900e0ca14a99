"""Facts about the served model, for clients that list the models."""

from collections.abc import Mapping
from dataclasses import dataclass

from model.loading.routing_baseline import RoutingBaseline


@dataclass(frozen=True, slots=True)
class RouterFacts:
    """`num_experts` is by index of the MoE layer.

    `experts_per_token` is the number that the server runs with; None where the router chooses it, token by token.
    `adaptive_most` is the largest number that the server gives to a request by itself, where it chooses one.
    """

    name: str
    num_experts: Mapping[int, int]
    experts_per_token: int | None = None
    baseline: RoutingBaseline | None = None  # how busy the experts usually are
    adaptive_most: int | None = None

    @property
    def most_experts_per_token(self) -> int:
        """How many experts a token can go to in one layer, where no experts are forced."""
        if self.experts_per_token is None:
            return max(self.num_experts.values())
        return max(self.experts_per_token, self.adaptive_most or 0)


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """`weight_scheme` is the type of the weights, or the scheme that quantizes them to `weight_bytes`."""

    family: str = "unknown"
    num_parameters: int = 0
    hidden_size: int = 0
    weight_bytes: int = 0
    weight_scheme: str = "unknown"
    router: RouterFacts | None = None  # None: a model without experts

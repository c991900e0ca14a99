"""The fields that control how the tokens of a request are routed, and those that report it in the answer."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

from pydantic import BaseModel, Discriminator, Field, Tag

from server.api.request_model import FirstErrorOnly, RequestBody, RequestModel, WholeNumber
from server.api.response_model import Omittable
from server.api.sse import Event
from server.chat.answer import ChatDelta, ChatResult
from server.engine.types import ExpertsByLayer, ReturnedRouting, RoutingParams
from server.errors import ForbiddenError, InvalidRequestError
from server.generation.model_facts import ModelFacts, RouterFacts
from server.generation.stream import GenerationResult, TextDelta
from server.generation.token_routing import RoutedToken

MAX_LAYERS = 1024
MAX_EXPERTS = 4096

LayerIndex = Annotated[int, Field(ge=0, le=MAX_LAYERS), WholeNumber]
ExpertIndex = Annotated[int, Field(ge=0, le=MAX_EXPERTS), WholeNumber]
LayerName = Annotated[str, Field(pattern=r"^[0-9]{1,4}$")]
ExpertsOfLayers = dict[
    LayerName, Annotated[list[ExpertIndex], FirstErrorOnly, Field(min_length=1, max_length=MAX_EXPERTS)]
]


class ReturnRouting(RequestModel):
    """Of which layers (all MoE layers), how many experts per token at most, and whether of the prompt too."""

    layers: Annotated[list[LayerIndex], FirstErrorOnly, Field(min_length=1, max_length=MAX_LAYERS)] | None = None
    top: Annotated[int, Field(ge=1, le=64), WholeNumber] | None = None
    prompt: bool = False


ReturnRoutingField = Annotated[
    Annotated[bool, Tag("[boolean]")] | Annotated[ReturnRouting, Tag("[object]")],
    Discriminator(lambda value: "[boolean]" if isinstance(value, bool) else "[object]"),
]


class ExpertsFields(RequestBody):
    """How many experts a token goes to."""

    experts_per_token: (
        Annotated[
            int,
            Field(ge=1, le=MAX_EXPERTS, description="At most the number that the server runs with, or adapts it to."),
            WholeNumber,
        ]
        | None
    ) = None
    adaptive_experts: Annotated[
        bool, Field(description="false: the server must not lower the number of experts under load.")
    ] = True

    def routing_params(self, facts: ModelFacts, task: str, *, masks_allowed: bool) -> RoutingParams:
        """The engine's form. Raises InvalidRequestError for what the model's router cannot do, and ForbiddenError for
        masked and forced experts unless `masks_allowed`.
        """
        if self.experts_per_token is not None:
            _check_experts_per_token(self.experts_per_token, facts.router)
        return RoutingParams(self.experts_per_token, self.adaptive_experts, task=task)


class ExpertChoiceFields(ExpertsFields):
    """Which experts get no token, and which get every one."""

    mask_experts: (
        Annotated[
            ExpertsOfLayers,
            Field(max_length=MAX_LAYERS, description="By layer: experts that get no token. For research, if allowed."),
        ]
        | None
    ) = None
    force_experts: (
        Annotated[
            ExpertsOfLayers,
            Field(
                max_length=MAX_LAYERS,
                description="By layer: the experts that get every token, and no others do. For research, if allowed.",
            ),
        ]
        | None
    ) = None

    def routing_params(self, facts: ModelFacts, task: str, *, masks_allowed: bool) -> RoutingParams:
        params = super().routing_params(facts, task, masks_allowed=masks_allowed)
        given = {"mask_experts": self.mask_experts, "force_experts": self.force_experts}
        if not masks_allowed and (field := next((name for name in given if given[name]), None)):
            raise ForbiddenError(
                f"{field} is not allowed: it takes ROUTELM_ALLOW_EXPERT_MASKS=true on the server, and an API key with "
                "the scope admin where there are several keys.",
                param=field,
            )
        if not any(given.values()):
            return params
        return replace(
            params, masked_experts=_by_layer(self.mask_experts), forced_experts=_by_layer(self.force_experts)
        )


def _by_layer(experts: ExpertsOfLayers | None) -> ExpertsByLayer:
    found = {int(layer): tuple(sorted(set(of_layer))) for layer, of_layer in (experts or {}).items()}
    return tuple(sorted(found.items()))


class RoutingFields(ExpertChoiceFields):
    """Which experts a token goes to, and whether the answer reports it."""

    return_routing: (
        Annotated[
            ReturnRoutingField, Field(description="true, or an object: the experts and gates of each generated token.")
        ]
        | None
    ) = None

    def routing_params(self, facts: ModelFacts, task: str, *, masks_allowed: bool) -> RoutingParams:
        params = super().routing_params(facts, task, masks_allowed=masks_allowed)
        returned = self._returned(facts.router)
        return params if returned is None else replace(params, returned=returned)

    def _returned(self, router: RouterFacts | None) -> ReturnedRouting | None:
        if self.return_routing is None or self.return_routing is False:
            return None
        if router is None:
            raise InvalidRequestError("This model has no experts; leave return_routing out.", param="return_routing")
        asked = ReturnRouting() if self.return_routing is True else self.return_routing
        layers = tuple(router.num_experts) if asked.layers is None else tuple(dict.fromkeys(asked.layers))
        unknown = next((layer for layer in layers if layer not in router.num_experts), None)
        if unknown is not None:
            known = ", ".join(map(str, router.num_experts))
            raise InvalidRequestError(
                f"Layer {unknown} has no experts; those that have are {known}.", param="return_routing.layers"
            )
        return ReturnedRouting(layers, asked.top, asked.prompt)


def _check_experts_per_token(number: int, router: RouterFacts | None) -> None:
    if router is None:
        raise InvalidRequestError("This model has no experts; leave the field out.", param="experts_per_token")
    if router.experts_per_token is None:
        raise InvalidRequestError(
            f"The router of this model ({router.name}) chooses the number itself; leave the field out.",
            param="experts_per_token",
        )
    if number > router.most_experts_per_token:
        raise InvalidRequestError(
            f"experts_per_token is {number}: this server takes 1 to {router.most_experts_per_token}.",
            param="experts_per_token",
        )


class AnswerRouting(BaseModel):
    """The experts of the generated tokens, and of the prompt's if asked for; entry i is of `layers[i]`."""

    layers: list[int]
    prompt: Omittable[list[RoutedToken]] = None
    tokens: list[RoutedToken]


def answer_routing(result: GenerationResult | ChatResult, params: RoutingParams) -> AnswerRouting | None:
    """The routing of a whole answer, if it was asked for."""
    if (asked := params.returned) is None:
        return None
    prompt = list(result.prompt_routing) if asked.prompt else None
    return AnswerRouting(layers=list(asked.layers), prompt=prompt, tokens=list(result.routing))


def piece_routing(delta: TextDelta | ChatDelta, params: RoutingParams) -> Event:
    """The field of a piece of a stream; empty where the piece has no routing."""
    if params.returned is None or not (delta.routing or delta.prompt_routing):
        return {}
    routing: dict[str, Any] = {"layers": params.returned.layers, "tokens": _as_dicts(delta.routing)}
    return {"routing": routing | ({"prompt": _as_dicts(delta.prompt_routing)} if delta.prompt_routing else {})}


def _as_dicts(tokens: Sequence[RoutedToken]) -> list[dict[str, Any]]:
    """What JSON is made of in half the time that dataclasses take."""
    return [vars(token) for token in tokens]

"""What a request may ask of the routers of a network: another number of experts, some masked, or some forced."""

from collections.abc import Collection, Mapping
from dataclasses import replace

from model.config.feed_forward import MoEConfig
from model.config.network import LayerConfig, ModelConfig
from model.config.routers import FixedKConfig, GroupLimit, HashConfig, SparseMixerConfig

ExpertsByLayer = Mapping[int, Collection[int]]


def with_experts_per_token(config: ModelConfig, k: int) -> ModelConfig:
    """The same network with `k` experts per token in every MoE layer; its weights fit both.

    Raises ValueError where a layer cannot choose that many, where the routers choose a varying number by themselves,
    and for a network without experts.
    """
    check_experts_per_token(config, k)
    return replace(config, layers=tuple(_with_top_k(layer, k) for layer in config.layers))


def check_experts_per_token(config: ModelConfig, k: int) -> None:
    """Raise ValueError unless every MoE layer of the network can send each token to `k` experts."""
    layers = [moe for _, moe in config.moe_layers()]
    for moe in layers:
        if not isinstance(moe.router, FixedKConfig):
            raise ValueError(f"experts_per_token is {k}: a {_kind(moe)} router chooses the number itself; leave it out")
    largest = min(map(_max_top_k, layers), default=0)
    if not 1 <= k <= largest:
        allowed = f"1 to {largest}" if layers else "a model with experts"
        raise ValueError(f"experts_per_token is {k}: this takes {allowed}")


def check_masked_experts(config: ModelConfig, masked: ExpertsByLayer, k: int | None = None) -> None:
    """Raise ValueError unless each MoE layer has enough experts without those `masked` by layer for `k` per token."""
    for layer, experts in masked.items():
        moe = _named_layer("mask_experts", config, layer, experts)
        needed = (k or moe.router.top_k) if isinstance(moe.router, FixedKConfig) else 1
        if (available := _num_available(moe, experts)) < needed:
            limited = ", which its router limits to groups of experts" if _groups(moe).num_groups > 1 else ""
            raise ValueError(
                f"mask_experts leaves too few experts in layer {layer}: a token needs {needed}{limited}, and may be "
                f"left with {available}"
            )


def check_forced_experts(config: ModelConfig, forced: ExpertsByLayer, masked: ExpertsByLayer) -> None:
    """Raise ValueError unless the routers of the layers can send a token to exactly the experts `forced` by layer."""
    for layer, experts in forced.items():
        moe, count = _named_layer("force_experts", config, layer, experts), len(set(experts))
        if layer in masked:
            raise ValueError(f"layer {layer} is in mask_experts and in force_experts: leave it out of one of them")
        if not isinstance(moe.router, FixedKConfig):
            raise ValueError(f"force_experts: a {_kind(moe)} router chooses the number of experts itself; leave it out")
        others = set(range(moe.num_experts)).difference(experts)
        if not 1 <= count <= min(_max_top_k(moe), _num_available(moe, others)):
            groups, most = _groups(moe), _max_top_k(moe)
            limited = f", in {groups.top_groups} of {groups.num_groups} groups" if groups.num_groups > 1 else ""
            raise ValueError(
                f"force_experts names {count} experts of layer {layer}: a token can go to 1 to {most}{limited}"
            )


def _named_layer(field: str, config: ModelConfig, layer: int, experts: Collection[int]) -> MoEConfig:
    """The MoE layer that a field names, if it has the experts and a router whose choice can be changed."""
    layers = dict(config.moe_layers())
    if not layers:
        raise ValueError(f"a model without experts takes no {field}; leave it out")
    moe = layers.get(layer)
    if moe is None:
        raise ValueError(f"{field} names layer {layer}: those with experts are {', '.join(map(str, layers))}")
    if isinstance(moe.router, HashConfig):
        raise ValueError(f"{field}: a hash router does not look at scores; leave it out")
    wrong = next((expert for expert in experts if not 0 <= expert < moe.num_experts), None)
    if wrong is not None:
        raise ValueError(f"{field} names expert {wrong} of layer {layer}: there are 0 to {moe.num_experts - 1}")
    return moe


def _num_available(moe: MoEConfig, masked: Collection[int]) -> int:
    """How many experts any token can go to: a token that is limited to groups may get the ones with the fewest left.

    Groups without any expert left are chosen only where there are no others.
    """
    limit, hidden = _groups(moe), set(masked)
    size = moe.num_experts // limit.num_groups
    left = [
        sum(expert not in hidden for expert in range(start, start + size)) for start in range(0, moe.num_experts, size)
    ]
    return sum(sorted(filter(None, left))[: limit.top_groups])


def _groups(moe: MoEConfig) -> GroupLimit:
    """The limit of the router to groups; all experts are one group where there is none."""
    return getattr(moe.router, "groups", None) or GroupLimit(num_groups=1, top_groups=1, best_of=1)


def _max_top_k(moe: MoEConfig) -> int:
    limit = _groups(moe)
    most = moe.num_experts // limit.num_groups * limit.top_groups
    return min(most, SparseMixerConfig.max_top_k) if isinstance(moe.router, SparseMixerConfig) else most


def _kind(moe: MoEConfig) -> str:
    return type(moe.router).__name__.removesuffix("Config")


def _with_top_k(layer: LayerConfig, k: int) -> LayerConfig:
    moe = layer.feed_forward
    if not isinstance(moe, MoEConfig):
        return layer
    assert isinstance(moe.router, FixedKConfig)
    return replace(layer, feed_forward=replace(moe, router=replace(moe.router, top_k=k)))

"""Equal terms, counted: every variant computes as much per token as the others, and holds as much."""

from dataclasses import replace

import pytest

from benchmarks.routing_study.cost import cost_of
from benchmarks.routing_study.variants import EXPERTS_PER_TOKEN, SIZES, VARIANTS, model_of, variant_named
from model.config import MoEConfig, SoftmaxTopKConfig

ROUTED = [name for name in VARIANTS if not name.startswith("dense")]
NEARLY = 0.01  # the rows of the router


def parameters(name: str) -> tuple[int, float]:
    """All of them, and those that are active with the wanted number of experts."""
    config = model_of(VARIANTS[name], SIZES["XS"], 7680)
    k = 1 if name == "top-1" else EXPERTS_PER_TOKEN
    cost = cost_of(config, [k for _ in config.moe_layers()])
    return cost.parameters, cost.active_parameters


@pytest.mark.parametrize("name", ROUTED)
def test_routed_variants_compute_and_hold_as_much_as_the_first(name: str) -> None:
    assert parameters(name) == pytest.approx(parameters("softmax-top-2"), rel=NEARLY)


def test_dense_variants_match_one_of_the_two() -> None:
    total, active = parameters("softmax-top-2")
    assert parameters("dense-active") == pytest.approx((active, active), rel=NEARLY)
    assert parameters("dense-total") == pytest.approx((total, total), rel=NEARLY)
    assert total > 2 * active


def test_one_narrow_expert_would_not_be_equal() -> None:
    """Negative control: the count tells unequal terms."""
    config = model_of(VARIANTS["softmax-top-2"], SIZES["XS"], 7680)
    _, active = parameters("softmax-top-2")
    assert cost_of(config, [1] * 4).active_parameters != pytest.approx(active, rel=NEARLY)


def test_every_layer_of_a_routed_variant_is_routed_alike() -> None:
    config = model_of(VARIANTS["relu"], SIZES["XS"], 7680)
    assert len(list(config.moe_layers())) == len(config.layers) == 4
    assert len({layer.feed_forward for layer in config.layers}) == 1


def test_top_1_does_not_renormalize() -> None:
    [feed_forward] = {layer.feed_forward for layer in model_of(VARIANTS["top-1"], SIZES["XS"], 7680).layers}
    assert isinstance(feed_forward, MoEConfig)
    assert feed_forward.router == SoftmaxTopKConfig(1, renormalize=False)


def test_only_softmax_routers_have_a_z_loss() -> None:
    assert {name for name, variant in VARIANTS.items() if variant.z_weight} == {"softmax-top-2", "top-p", "top-1"}


def test_unknown_variant_is_refused_with_the_names() -> None:
    with pytest.raises(ValueError, match=r"no variant 'top-3'.*expert-threshold"):
        variant_named("top-3")


def test_cost_by_hand() -> None:
    size = replace(SIZES["XS"], num_layers=4, hidden_size=64, num_heads=1, num_kv_heads=1)
    with_two = cost_of(model_of(VARIANTS["softmax-top-2"], size, 1000), [2, 2, 2, 2])
    with_three = cost_of(model_of(VARIANTS["softmax-top-2"], size, 1000), [2, 2, 3, 2])
    assert with_three.active_parameters - with_two.active_parameters == 3 * 64 * size.expert_width
    assert with_two.flops_per_token == 2 * with_two.active_parameters

"""Linear layers: trainable, packed by oneDNN, and for the compiled products."""

from typing import TypeVar

import pytest
import torch
from torch import nn

from model.kernels import product
from model.kernels.product import Panels
from model.layers.frozen_linear import (
    OneDNNGroupedLinear,
    OneDNNLinear,
    PanelGroupedLinear,
    PanelLinear,
    feed_forward_weights,
    has_onednn_product,
)
from model.layers.linear import GroupedLinear, Linear

COUNTS = torch.tensor([3, 0, 5])
M = TypeVar("M", bound=nn.Module)
needs_panels = pytest.mark.skipif(not product.available(), reason="the products are not compiled")
needs_onednn = pytest.mark.skipif(not has_onednn_product(torch.float32), reason="there is no oneDNN")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def filled(layer: M) -> M:
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    return layer.requires_grad_(False)


def frozen(layer: Linear | GroupedLinear, form: str) -> nn.Module:
    """The layer in another form."""
    if form == "oneDNN":
        packed = OneDNNLinear if isinstance(layer, Linear) else OneDNNGroupedLinear
        return packed(layer.weight, layer.bias)
    if isinstance(layer, GroupedLinear):
        return PanelGroupedLinear(Panels(layer.weight, None, layer.bias))
    return PanelLinear(Panels(layer.weight[None], None, None if layer.bias is None else layer.bias[None]))


FORMS = [pytest.param("oneDNN", marks=needs_onednn), pytest.param("panels", marks=needs_panels)]


@pytest.mark.parametrize("bias", [False, True])
def test_linear_is_a_matrix_product_and_a_bias(bias: bool) -> None:
    layer, x = filled(Linear(32, 24, bias=bias)), torch.randn(7, 32)
    expected = x @ layer.weight.T
    torch.testing.assert_close(layer(x), expected if layer.bias is None else expected + layer.bias)
    assert (layer.bias is not None) == bias


@pytest.mark.parametrize("bias", [False, True])
def test_grouped_linear_gives_each_row_to_its_expert(bias: bool) -> None:
    layer, x = filled(GroupedLinear(3, 32, 24, bias=bias)), torch.randn(8, 32)
    experts = torch.tensor([0, 0, 0, 2, 2, 2, 2, 2])
    expected = torch.stack([w @ row for w, row in zip(layer.weight[experts], x, strict=True)])
    torch.testing.assert_close(layer(x, COUNTS), expected if layer.bias is None else expected + layer.bias[experts])


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_frozen_forms_are_the_same_layer(form: str, bias: bool) -> None:
    linear, grouped = filled(Linear(32, 24, bias=bias)), filled(GroupedLinear(3, 32, 24, bias=bias))
    x = torch.randn(8, 32)
    torch.testing.assert_close(frozen(linear, form)(x), linear(x))
    torch.testing.assert_close(frozen(grouped, form)(x, COUNTS), grouped(x, COUNTS))


@pytest.mark.parametrize("form", FORMS)
def test_frozen_rows_do_not_depend_on_each_other(form: str) -> None:
    layer, x = frozen(filled(Linear(256, 96)), form), torch.randn(64, 256)
    whole = layer(x)
    assert all(torch.equal(layer(x[:count]), whole[:count]) for count in range(1, 64))


@needs_panels
def test_float16_rows_are_multiplied_in_float32() -> None:
    linear, grouped = filled(Linear(32, 24)), filled(GroupedLinear(3, 32, 24))
    x = torch.randn(8, 32).half()
    assert torch.equal(frozen(linear, "panels")(x), frozen(linear, "panels")(x.float()).half())
    assert torch.equal(frozen(grouped, "panels")(x, COUNTS), frozen(grouped, "panels")(x.float(), COUNTS).half())


def feed_forward_layers(form: str, width: int, hidden: int) -> tuple[nn.Module, nn.Module]:
    return tuple(frozen(filled(layer), form) for layer in (Linear(64, 2 * width), Linear(width, hidden)))  # type: ignore


@needs_panels
@pytest.mark.parametrize(
    ("form", "hidden", "whole"), [("panels", 64, True), ("panels", 40, False), ("oneDNN", 64, False)]
)
def test_a_feed_forward_is_computed_whole_where_it_can_be(form: str, hidden: int, whole: bool) -> None:
    gate_up, down = feed_forward_layers(form, 32, hidden)
    weights = feed_forward_weights(gate_up, down)
    assert (weights is not None) == whole
    if weights:
        x = torch.randn(5, 64)
        gate, up = gate_up(x).chunk(2, -1)
        torch.testing.assert_close(product.feed_forward(x, weights), down(nn.functional.silu(gate) * up))


@needs_panels
def test_layers_of_two_kinds_are_not_computed_whole() -> None:
    gate_up, _ = feed_forward_layers("panels", 32, 64)
    assert feed_forward_weights(gate_up, frozen(filled(GroupedLinear(3, 32, 64)), "panels")) is None
    assert feed_forward_weights(gate_up, filled(Linear(32, 64))) is None

"""Linear layers: trainable, and frozen for serving, with compiled matrix products and with their definition."""

from typing import TypeVar

import pytest
import torch
from torch import nn

from model import kernels
from model.kernels.matmul.codes import Codes
from model.kernels.matmul.packed import PackedWeights
from model.kernels.matmul.reference import PlainWeights
from model.layers.frozen_linear import FrozenGroupedLinear, FrozenLinear, fused_mlp_weights
from model.layers.linear import GroupedLinear, Linear

COUNTS = torch.tensor([3, 0, 5])
M = TypeVar("M", bound=nn.Module)
Form = type[PackedWeights] | type[PlainWeights]
needs_compiled = pytest.mark.compiled_kernels
FORMS = [pytest.param(PlainWeights, id="plain"), pytest.param(PackedWeights, id="packed", marks=needs_compiled)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def filled(layer: M) -> M:
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    return layer.requires_grad_(False)


def frozen(layer: Linear | GroupedLinear, form: Form) -> nn.Module:
    """The layer in another form."""
    if isinstance(layer, GroupedLinear):
        return FrozenGroupedLinear(form(Codes(layer.weight), layer.bias))
    return FrozenLinear(form(Codes(layer.weight[None]), None if layer.bias is None else layer.bias[None]))


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
@pytest.mark.parametrize("inputs", [32, 21])
@pytest.mark.parametrize("form", FORMS)
def test_frozen_forms_are_the_same_layer(form: Form, inputs: int, bias: bool) -> None:
    linear, grouped = filled(Linear(inputs, 24, bias=bias)), filled(GroupedLinear(3, inputs, 24, bias=bias))
    x, biases = torch.randn(8, inputs), [None] * 3 if grouped.bias is None else grouped.bias
    torch.testing.assert_close(frozen(linear, form)(x), linear(x))
    pieces = zip(x.split(COUNTS.tolist()), grouped.weight, biases, strict=True)
    expected = torch.cat([nn.functional.linear(*piece) for piece in pieces])
    torch.testing.assert_close(frozen(grouped, form)(x, COUNTS), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMS)
def test_rows_of_every_type_are_multiplied_in_float32(form: Form, dtype: torch.dtype) -> None:
    linear, grouped = filled(Linear(40, 24)), filled(GroupedLinear(3, 40, 24))
    x = torch.randn(8, 40).to(dtype)
    found, in_float32 = frozen(linear, form)(x), frozen(linear, form).in_float32(x)
    assert (found.dtype, in_float32.dtype) == (dtype, torch.float32)
    torch.testing.assert_close(in_float32, x.float() @ linear.weight.T)
    torch.testing.assert_close(found, in_float32.to(dtype))
    expected = frozen(grouped, form)(x.float(), COUNTS).to(dtype)
    torch.testing.assert_close(frozen(grouped, form)(x, COUNTS), expected)


@pytest.mark.parametrize("form", FORMS)
def test_no_rows_give_no_rows(form: Form) -> None:
    nothing = torch.empty(0, 21, dtype=torch.bfloat16)
    assert frozen(filled(Linear(21, 24)), form)(nothing).shape == (0, 24)
    found = frozen(filled(GroupedLinear(3, 21, 24)), form)(nothing, torch.zeros(3, dtype=torch.int64))
    assert (found.shape, found.dtype) == ((0, 24), torch.bfloat16)


@needs_compiled
@pytest.mark.parametrize("inputs", [256, 250, 37])
def test_frozen_rows_do_not_depend_on_each_other(inputs: int) -> None:
    layer, x = frozen(filled(Linear(inputs, 96)), PackedWeights), torch.randn(64, inputs)
    whole = layer(x)
    assert all(torch.equal(layer(x[:count]), whole[:count]) for count in range(1, 64))


def test_plain_products_are_done_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a large matrix is never in memory as float32."""
    layer, x = frozen(filled(Linear(32, 70, bias=True)), PlainWeights), torch.randn(3, 32)
    whole = layer(x)
    monkeypatch.setattr("model.kernels.matmul.reference.CHUNK", 32 * 16)
    torch.testing.assert_close(layer(x), whole)


def mlp_layers(form: Form, width: int, hidden: int) -> tuple[nn.Module, nn.Module]:
    return tuple(frozen(filled(layer), form) for layer in (Linear(64, 2 * width), Linear(width, hidden)))  # type: ignore


@needs_compiled
@pytest.mark.parametrize(
    ("form", "width", "hidden", "fused"),
    [
        (PackedWeights, 32, 64, True),
        (PackedWeights, 32, 40, False),
        (PackedWeights, 40, 64, False),
        (PlainWeights, 32, 64, False),
    ],
)
def test_a_gated_mlp_is_one_call_if_it_is_supported(form: Form, width: int, hidden: int, fused: bool) -> None:
    gate_up, down = mlp_layers(form, width, hidden)
    weights = fused_mlp_weights(gate_up, down, torch.float32)
    assert (weights is not None) == fused
    if weights:
        x = torch.randn(5, 64)
        gate, up = gate_up(x).chunk(2, -1)
        torch.testing.assert_close(kernels.gated_mlp(x, weights), down(nn.functional.silu(gate) * up))


@needs_compiled
def test_layers_of_two_kinds_are_not_fused() -> None:
    gate_up, _ = mlp_layers(PackedWeights, 32, 64)
    for down in (frozen(filled(GroupedLinear(3, 32, 64)), PackedWeights), filled(Linear(32, 64))):
        assert fused_mlp_weights(gate_up, down, torch.float32) is None


@needs_compiled
def test_float16_is_not_fused() -> None:
    assert fused_mlp_weights(*mlp_layers(PackedWeights, 32, 64), torch.float16) is None

"""Schemes: how far from the weights, and from the products of the weights, what they keep is."""

import pytest
import torch
from torch import Tensor

from model import kernels
from model.kernels.matmul.reference import PlainWeights
from model.quantization import SCHEMES, Codes, Scheme, int4, plain_scheme, q8_0
from model.quantization.scheme import frozen_linear
from model.quantization.stored import Q8_0

# Relative error (of norms) for Gaussian weights. 8 bits: a row's largest weight of about 3.5 sigma in 127 steps, each
# off by up to half a step: 3.5 / 127 / sqrt(12) = 0.8 %. 4 bits were measured.
BOUNDS = {"int8": 0.009, "int4": 0.085, "q8_0": 0.007}
ALL = {**SCHEMES, Q8_0.name: Q8_0}
SHAPES = [(48, 512), (3, 40, 256)]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=ALL.values(), ids=list(ALL))
def scheme(request: pytest.FixtureRequest) -> Scheme:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "compiled", lambda: False)


def error(found: Tensor, expected: Tensor) -> float:
    return float((found.float() - expected.float()).norm() / expected.float().norm())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_are_within_the_bound(scheme: Scheme, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    weight = torch.randn(shape).to(dtype)
    assert BOUNDS[scheme.name] / 2 < error(scheme.quantize(weight).dequantized(), weight) < BOUNDS[scheme.name]


def test_the_bound_of_eight_bits_is_not_met_by_four() -> None:
    weight = torch.randn(48, 512)
    assert error(SCHEMES["int4"].quantize(weight).dequantized(), weight) > BOUNDS["int8"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_are_within_the_bound(scheme: Scheme, dtype: torch.dtype) -> None:
    weight, bias, x = torch.randn(96, 512).to(dtype), torch.randn(96).to(dtype), torch.randn(16, 512).to(dtype)
    found = scheme.linear(weight, bias)(x)
    assert found.dtype == dtype
    assert (
        error(found, x.float() @ weight.float().T + bias.float()) < BOUNDS[scheme.name] + 0.004
    )  # bfloat16's rounding


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_of_experts_are_within_the_bound(scheme: Scheme, dtype: torch.dtype) -> None:
    weight, bias = torch.randn(3, 64, 256).to(dtype), torch.randn(3, 64).to(dtype)
    x, counts = torch.randn(9, 256).to(dtype), torch.tensor([4, 0, 5])
    found = scheme.grouped(weight, bias)(x, counts)
    pieces = zip(torch.split(x, counts.tolist()), weight, bias, strict=True)
    expected = torch.cat([rows.float() @ w.float().T + b.float() for rows, w, b in pieces])
    assert error(found, expected) < BOUNDS[scheme.name] + 0.004


def test_numbers_that_codes_can_say_are_kept_exactly() -> None:
    numbers = torch.randint(-127, 128, (5, 64)).float()
    numbers[:, 0] = 127
    assert torch.equal(SCHEMES["int8"].quantize(numbers * 0.5).dequantized(), numbers * 0.5)
    numbers = torch.randint(-8, 8, (5, 64)).float()
    numbers[:, ::32] = -8
    assert torch.equal(SCHEMES["int4"].quantize(numbers * 0.25).dequantized(), numbers * 0.25)


def test_rows_and_groups_of_zeros_stay_zero(scheme: Scheme) -> None:
    weight = torch.randn(4, 64)
    weight[1], weight[2, :32] = 0, 0
    numbers = scheme.quantize(weight).dequantized()
    assert not numbers[1].any()
    assert scheme.name == "int8" or not numbers[2, :32].any()
    assert numbers.isfinite().all()


def test_a_large_weight_disturbs_its_own_group_alone() -> None:
    weight = torch.randn(2, 96)
    spoiled = weight.clone()
    spoiled[0, 40] = 1e4
    before, after = (SCHEMES["int4"].quantize(w).dequantized() for w in (weight, spoiled))
    assert torch.equal(before[1], after[1])
    assert torch.equal(before[0, :32], after[0, :32])
    assert not torch.equal(before[0, 32:64], after[0, 32:64])


@pytest.mark.usefixtures("no_compiler")
def test_codes_do_not_depend_on_how_many_rows_there_are(monkeypatch: pytest.MonkeyPatch, scheme: Scheme) -> None:
    weight = torch.randn(40, 64)
    whole = scheme.quantize(weight)
    monkeypatch.setattr("model.quantization.int8.CHUNK", 64 * 3)
    monkeypatch.setattr("model.kernels.matmul.quantize_reference.CHUNK", 64 * 3)
    monkeypatch.setattr("model.quantization.q8_0.CHUNK", 64 * 3)
    piecewise = scheme.quantize(weight)
    assert torch.equal(whole.values, piecewise.values)
    assert torch.equal(whole.scales, piecewise.scales)  # type: ignore[arg-type]


def test_bits_per_weight_are_those_of_the_codes(scheme: Scheme) -> None:
    codes = scheme.quantize(torch.randn(8, 4096))
    assert codes.scales is not None
    bits = 8 * (codes.values.nbytes + codes.scales.nbytes) / (8 * 4096)
    assert bits == pytest.approx(scheme.bits_per_weight, rel=0.01)


def test_four_bits_keep_the_head_in_eight() -> None:
    assert SCHEMES["int4"].head is SCHEMES["int8"]
    assert SCHEMES["int8"].head is SCHEMES["int8"]


@pytest.mark.compiled_kernels  # the definitions keep all scales
@pytest.mark.parametrize("scale", [2.0**-30, 2.0**-20, 2.0**-17, 1.0, 60_000.0, 1e9])
def test_bfloat16_scales_are_kept_where_float16_has_them(scale: float) -> None:
    """Checkpoints have bfloat16 scales. Smaller ones are off by at most 2^-25, larger ones become the largest."""
    values = torch.arange(16, dtype=torch.uint8).repeat(4, 1) * 17
    layer = frozen_linear(Codes(values, torch.full((4, 1), scale).bfloat16()), None)
    found, numbers = layer(torch.eye(32))[:, 0], Codes(values, torch.ones(4, 1)).dequantized()[0]
    wanted = min(float(torch.tensor(scale).bfloat16()), 65504.0)
    error = 2.0**-25 if scale < 2.0**-17 else 0.0
    torch.testing.assert_close(found, numbers * wanted, rtol=1e-6, atol=8 * error)
    assert found.isfinite().all()


def test_weights_that_are_too_large_for_float16_scales_stay_finite() -> None:
    assert q8_0.quantize(torch.full((1, 32), 1e9)).dequantized().isfinite().all()
    assert not q8_0.quantize(torch.full((1, 32), 1e-9)).dequantized().any()


def test_inputs_that_do_not_divide_into_groups_take_eight_bits() -> None:
    weight = torch.randn(8, 48)
    assert int4.quantize(weight).values.dtype == torch.int8
    assert q8_0.quantize(weight).scales.dtype == torch.float32  # type: ignore[union-attr]
    layer, x = SCHEMES["int4"].linear(weight), torch.randn(3, 48)
    assert error(layer(x), x @ weight.T) < BOUNDS["int8"]


@pytest.mark.usefixtures("no_compiler")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_without_a_compiler_the_same_numbers_are_multiplied(scheme: Scheme, dtype: torch.dtype) -> None:
    weight, x = torch.randn(24, 64).to(dtype), torch.randn(5, 64).to(dtype)
    linear, grouped = scheme.linear(weight), scheme.grouped(weight[None])
    assert isinstance(linear.weights, PlainWeights)
    assert isinstance(grouped.weights, PlainWeights)
    expected = x.float() @ scheme.quantize(weight).dequantized().T
    assert error(linear(x), expected) < 0.008  # of activations in eight bits, and of bfloat16
    assert torch.equal(grouped(x, torch.tensor([5])), linear(x))


@pytest.mark.usefixtures("no_compiler")
def test_without_a_compiler_the_weights_are_not_widened(scheme: Scheme) -> None:
    weight = torch.randn(24, 64)
    assert scheme.linear(weight).weights.nbytes <= 24 * 64 * scheme.bits_per_weight / 8 * 1.07
    assert plain_scheme(torch.bfloat16).linear(weight.bfloat16()).weights.nbytes == 24 * 64 * 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_plain_weights_are_kept(dtype: torch.dtype) -> None:
    plain, weight, x = plain_scheme(dtype), torch.randn(24, 64).to(dtype), torch.randn(5, 64).to(dtype)
    assert plain.name == str(dtype).removeprefix("torch.")
    assert plain.bits_per_weight == 8 * dtype.itemsize
    assert torch.equal(plain.quantize(weight).dequantized(), weight.float())
    assert error(plain.linear(weight)(x), x.float() @ weight.float().T) < 0.003


def test_float32_weights_that_are_bfloat16_are_read_as_such() -> None:
    weight = torch.randn(24, 64)
    rounded, plain = weight.bfloat16().float(), plain_scheme(torch.float32)
    assert plain.quantize(weight).values.dtype == torch.float32
    assert plain.quantize(rounded).values.dtype == torch.bfloat16
    rounded[23, 63] += 1e-5
    assert plain.quantize(rounded).values.dtype == torch.float32

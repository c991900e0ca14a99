"""The compiled matrix products against their definition, at every level that runs here, and for aarch64."""

import mmap
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from model.kernels.matmul import packed, reference
from model.kernels.matmul.codes import Codes, Format
from model.kernels.matmul.packed import PackedWeights
from model.kernels.matmul.reference import ACTIVATION_LIMITS, PlainWeights, quantized_activations
from model.kernels.types import GatedMLPWeights

pytestmark = pytest.mark.usefixtures("kernel_target")

BOUNDS = {torch.bfloat16: 3e-3, torch.float32: 1e-6}  # relative error of a product: the rounding of its type
# Where inner activations become integers, another last bit before may lead to the next integer.
MOE_BOUNDS = {Format.INT8: 2e-5, Format.Q8_0: 2e-5, Format.INT4: 2e-3, Format.Q4_1: 2e-5}
UNGROUPED = [Format.F32, Format.BF16, Format.INT8]
KINDS = list(Format)
SHAPES = [(1, 32), (37, 96), (64, 64), (300, 160)]
ODD_SHAPES = [(5, 1), (33, 16), (40, 31), (37, 33), (64, 100), (130, 255)]  # inputs that need padding
# all that a microkernel takes, and on both sides of where a panel is not kept for all of them any more
NUMBERS_OF_ROWS = [*range(1, 50), 61, 100, 199, 200]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def random_codes(kind: Format, *shape: int) -> Codes:
    """Weights of about unit size: [E, O, I]."""
    *outer, inputs = shape
    if kind < Format.INT8:
        return Codes(torch.randn(shape).to(torch.float32 if kind is Format.F32 else torch.bfloat16))
    if kind in (Format.INT8, Format.Q8_0):
        values = torch.randint(-127, 128, shape, dtype=torch.int8)
        return Codes(values, torch.rand(outer) * 0.03 if kind is Format.INT8 else halves(0.03, *outer, inputs // 32))
    values = torch.randint(0, 256, (*outer, inputs // 2), dtype=torch.uint8)
    groups = (*outer, inputs // 32)
    if kind is Format.Q4_1:
        return Codes(values, halves(0.4, *groups), halves(-3.0, *groups))
    return Codes(values, halves(0.4, *groups).bfloat16())


def identity(kind: Format, width: int) -> Codes:
    """Integer weights that copy each input: [1, I, I]."""
    ones = torch.eye(width, dtype=torch.int8)[None]
    nibbles, scales = (ones[..., ::2] | ones[..., 1::2] << 4).byte(), torch.ones(1, width, width // 32).half()
    return {
        Format.INT8: Codes(ones, torch.ones(1, width)),
        Format.Q8_0: Codes(ones, scales),
        Format.INT4: Codes(nibbles, scales),
        Format.Q4_1: Codes(nibbles, scales, torch.zeros_like(scales)),
    }[kind]


def halves(factor: float, *shape: int) -> Tensor:
    return (torch.rand(shape) * factor).half()


def error(found: Tensor, expected: Tensor) -> float:
    return float((found.float() - expected.float()).norm() / expected.float().norm())


def rows_that_change(compute: Callable[[Tensor], Tensor], x: Tensor, counts: list[int]) -> list[int]:
    """The numbers of rows with which the first rows have other bits than among all rows."""
    whole = compute(x)
    return [count for count in counts if not torch.equal(compute(x[:count]), whole[:count])]


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("outputs", "inputs"), SHAPES)
def test_linear_is_its_definition(dtype: torch.dtype, kind: Format, outputs: int, inputs: int) -> None:
    codes = random_codes(kind, 1, outputs, inputs)
    bias, x = torch.randn(1, outputs), torch.randn(19, inputs).to(dtype)
    found = packed.linear(x, PackedWeights(codes, bias))
    assert found.dtype == dtype
    assert error(found, reference.linear(x, PlainWeights(codes, bias))) < BOUNDS[dtype]


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("kind", UNGROUPED)
@pytest.mark.parametrize(("outputs", "inputs"), ODD_SHAPES)
def test_any_number_of_inputs_is_multiplied(dtype: torch.dtype, kind: Format, outputs: int, inputs: int) -> None:
    codes = random_codes(kind, 3, outputs, inputs)
    bias, counts, x = torch.randn(3, outputs), torch.tensor([4, 0, 57]), torch.randn(61, inputs).to(dtype)
    weights, plain = PackedWeights(codes, bias), PlainWeights(codes, bias)
    found = packed.grouped_linear(x, counts, weights)
    assert error(found, reference.grouped_linear(x, counts, plain)) < BOUNDS[dtype]
    assert rows_that_change(lambda x: packed.linear(x, weights), x, [*range(1, 14), 24, 25, 36, 37, 48, 49, 60]) == []


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("kind", UNGROUPED)
@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
def test_what_follows_a_row_is_not_part_of_it(dtype: torch.dtype, kind: Format, broken: float) -> None:
    """Rows are padded with zeros, not with the row behind them."""
    weights, x = PackedWeights(random_codes(kind, 1, 33, 37)), torch.randn(5, 37).to(dtype)
    expected = packed.linear(x, weights)
    x[1], x[3] = broken, broken
    found = packed.linear(x, weights)
    assert torch.equal(found[::2], expected[::2])
    assert not found[1::2].isfinite().any()


@pytest.mark.parametrize("nan", [0x7FC00000, 0x7FFFFFFF, -1])
def test_every_nan_stays_one_in_bfloat16(nan: int) -> None:
    """Rounding must not carry into the sign: 0x7fffffff would become -0."""
    weight = torch.ones(1, 33, 32)
    weight.view(torch.int32)[0, 0, 0] = nan
    found = packed.linear(torch.ones(2, 32).bfloat16(), PackedWeights(Codes(weight)))
    assert found.isnan().sum(1).tolist() == [1, 1]


@pytest.mark.parametrize("kind", KINDS)
def test_float32_outputs_are_the_sums_before_they_are_rounded(kind: Format) -> None:
    codes = random_codes(kind, 1, 37, 96)
    x, weights = torch.randn(19, 96).bfloat16(), PackedWeights(codes)
    found = packed.linear(x, weights, torch.float32)
    assert found.dtype == torch.float32
    assert torch.equal(found.bfloat16(), packed.linear(x, weights))
    assert not torch.equal(found, packed.linear(x, weights).float())
    assert torch.equal(packed.linear(x.float(), weights, torch.float32), packed.linear(x.float(), weights))
    assert error(found, reference.linear(x, PlainWeights(codes), torch.float32)) < 1e-6


@pytest.mark.parametrize("kind", [Format.F32, Format.BF16])
@pytest.mark.parametrize("inputs", [96, 37, 1])
def test_rows_of_packed_weights_are_what_was_packed(kind: Format, inputs: int) -> None:
    codes = random_codes(kind, 1, 70, inputs)
    chosen_T = torch.tensor([69, 0, 31, 32, 0])
    assert torch.equal(PackedWeights(codes).rows(chosen_T), codes.values[0, chosen_T])


@pytest.mark.skipif(not hasattr(mmap, "MADV_HUGEPAGE"), reason="this system has no huge pages to ask for")
def test_gathered_weights_are_the_same_in_other_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "SMALL", 20_000)
    all_codes = [random_codes(kind, 1, 70, 96) for kind in KINDS]
    weights = [PackedWeights(codes, torch.randn(1, 70)) for codes in all_codes]
    x = torch.randn(5, 96)
    before = [(packed.linear(x, one), one.address) for one in weights]
    old = [one.tensors for one in weights]
    moved = list(packed.gather(weights))
    for tensor in (tensor for tensors in old for tensor in tensors if tensor.nbytes < 20_000):
        tensor.zero_()
    for one, (product, address) in zip(weights, before, strict=True):
        assert torch.equal(packed.linear(x, one), product)
        assert one.address == address
    pairs = [
        (one, was)
        for now, before in zip(weights, old, strict=True)
        for one, was in zip(now.tensors, before, strict=True)
    ]
    places = [one.data_ptr() for one, was in pairs if was.nbytes < 20_000]
    assert all((one is was) == (was.nbytes >= 20_000) for one, was in pairs)
    assert 0 < len(places) < len(pairs)
    assert all(place % 64 == 0 for place in places)
    assert places == sorted(places)
    assert places[-1] - places[0] < sum(moved)


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("kind", KINDS)
def test_grouped_linear_is_its_definition(dtype: torch.dtype, kind: Format) -> None:
    codes = random_codes(kind, 5, 48, 64)
    bias, counts = torch.randn(5, 48), torch.tensor([3, 0, 17, 1, 9])
    x = torch.randn(30, 64).to(dtype)
    found = packed.grouped_linear(x, counts, PackedWeights(codes, bias))
    assert error(found, reference.grouped_linear(x, counts, PlainWeights(codes, bias))) < BOUNDS[dtype]


@pytest.mark.parametrize("kind", ACTIVATION_LIMITS)
@pytest.mark.parametrize("dtype", BOUNDS)
def test_activations_are_rounded_for_integer_weights(kind: Format, dtype: torch.dtype) -> None:
    """Weights that copy each input, plus a block of zeros and one with tiny numbers."""
    x, limit = torch.randn(17, 160).to(dtype), ACTIVATION_LIMITS[kind]
    x[:, 32:64], x[:, 64:96] = 0, 1e-33
    found = packed.linear(x, PackedWeights(identity(kind, 160)), torch.float32)
    torch.testing.assert_close(found, quantized_activations(x, limit), rtol=2e-7, atol=0)
    largest = x.float().view(17, 5, 32).abs().amax(2).repeat_interleave(32, 1)
    errors = (found - x.float()).abs()
    assert (errors <= largest / limit * 0.501 + 1e-30).all()
    assert errors.max() > largest.max() / limit * 0.25


@pytest.mark.parametrize("kind", KINDS)
def test_every_code_means_its_number(kind: Format) -> None:
    """Rows that pick one input each read the weights back exactly."""
    codes = random_codes(kind, 1, 70, 256)
    if codes.values.dtype == torch.int8:
        codes.values[0, :, :255] = torch.arange(-127, 128)
    if codes.values.dtype == torch.uint8:
        codes.values[0] = torch.arange(128).to(torch.uint8)[None] + torch.arange(70).to(torch.uint8)[:, None] * 2
    if codes.scales is not None:
        codes.scales.fill_(1)
    weights, expected = PackedWeights(codes), codes.dequantized()[0].T
    for dtype in BOUNDS:  # 1 is the largest integer times a scale, which may not be 1 again
        found, rtol = packed.linear(torch.eye(256).to(dtype), weights), 2e-7 if kind >= Format.INT8 else 0
        torch.testing.assert_close(found, expected.to(dtype), rtol=rtol, atol=1e-6 if kind is Format.Q4_1 else 0)


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_row_has_the_same_bits_among_any_number_of_rows(dtype: torch.dtype, kind: Format) -> None:
    weights = PackedWeights(random_codes(kind, 1, 70, 96))
    x = torch.randn(200, 96).to(dtype)
    assert rows_that_change(lambda x: packed.linear(x, weights), x, NUMBERS_OF_ROWS) == []
    assert torch.equal(packed.linear(x[50:90], weights), packed.linear(x, weights)[50:90])


def test_the_check_of_rows_notices_another_order_of_addition() -> None:
    weight, swapped = torch.randn(1, 32, 512), torch.arange(511, -1, -1)
    forwards, backwards = PackedWeights(Codes(weight)), PackedWeights(Codes(weight[..., swapped]))

    def compute(x: Tensor) -> Tensor:
        return packed.linear(x, forwards) if len(x) > 4 else packed.linear(x[:, swapped], backwards)

    assert rows_that_change(compute, torch.randn(20, 512), [2, 4, 5, 20]) == [2, 4]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [1, 5, 64])
def test_a_row_has_the_same_bits_with_any_number_of_threads(kind: Format, rows: int) -> None:
    codes = random_codes(kind, 1, 520, 512)
    weights, x = PackedWeights(codes), torch.randn(rows, 512)
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3, 7):
            torch.set_num_threads(count)
            found.append(packed.linear(x, weights))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(y, found[0]) for y in found)


@pytest.mark.parametrize("exact", [True, False])
def test_bfloat16_weights_give_float32_rows_the_bits_of_float32_weights(exact: bool) -> None:
    weight = torch.randn(1, 40, 64)
    weight = weight.bfloat16().float() if exact else weight
    x = torch.randn(9, 64)
    narrow = PackedWeights(Codes(weight.bfloat16()))
    same = torch.equal(packed.linear(x, PackedWeights(Codes(weight))), packed.linear(x, narrow))
    assert same == exact


SPECIAL = torch.tensor([0.0, -0.0, 1e-40, 3e-39, torch.inf, -torch.inf, torch.nan, 3e38, 2.0**-14, 1.0]).bfloat16()


def bits(tensor: Tensor) -> Tensor:
    return tensor.view(torch.int16 if tensor.dtype == torch.bfloat16 else torch.int32)


def weights_of_few_exponents(*shape: int) -> Tensor:
    """bfloat16 with random signs and fractions, and 16 different exponents."""
    weight = (1 + 0.98 * torch.rand(shape)) * torch.randint(-7, 9, shape).float().exp2()
    return (weight * torch.randint(0, 2, shape).mul(2).sub(1)).bfloat16()


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize(("outputs", "inputs", "pays"), [
    (1, 32, False), (33, 37, False), (37, 96, True), (64, 64, True), (70, 100, True), (300, 160, True),
])  # fmt: skip
def test_short_exponents_give_the_same_bits(dtype: torch.dtype, outputs: int, inputs: int, pays: bool) -> None:
    codes = Codes(weights_of_few_exponents(3, outputs, inputs))
    codes.values[1, ::200, ::200] = 0  # a group that cannot be short, beside those that are padded
    bias, counts, x = torch.randn(3, outputs), torch.tensor([4, 0, 57]), torch.randn(61, inputs).to(dtype)
    plain, short = PackedWeights(codes, bias), PackedWeights(codes, bias, short_exponents=True)
    assert (short.starts is not None) == pays
    found = packed.grouped_linear(x, counts, short)
    assert torch.equal(bits(found), bits(packed.grouped_linear(x, counts, plain)))
    for rows in NUMBERS_OF_ROWS[::4]:
        counts = torch.tensor([0, 0, rows])
        x = torch.randn(rows, inputs).to(dtype)
        found, expected = (packed.grouped_linear(x, counts, weights) for weights in (short, plain))
        assert torch.equal(bits(found), bits(expected)), rows


def test_short_exponents_save_a_quarter() -> None:
    codes = Codes(weights_of_few_exponents(2, 128, 1024))
    assert PackedWeights(codes, short_exponents=True).nbytes == pytest.approx(0.75 * codes.nbytes, rel=2e-3)
    assert PackedWeights(codes).nbytes == codes.nbytes
    assert PackedWeights(Codes(codes.values.float()), short_exponents=True).starts is None


@pytest.mark.parametrize("special", SPECIAL.tolist())
def test_groups_with_any_numbers_come_back_as_they_were(special: float) -> None:
    weight = weights_of_few_exponents(1, 96, 160)
    weight[0, 40, 70] = special
    short = PackedWeights(Codes(weight), short_exponents=True)
    assert short.scales is not None
    lies_far_away = torch.tensor(special).bfloat16().abs().item() not in (2.0**-14, 1.0)
    assert (short.scales == 0).sum() == (1 if lies_far_away or special == 2.0**-14 else 0)
    rows = torch.randperm(96)
    assert torch.equal(bits(short.rows(rows)), bits(weight[0, rows]))


@pytest.mark.parametrize(("least", "largest", "is_short"), [
    (2, 17, True), (1, 16, False), (3, 17, True), (2, 18, False), (0, 1, False), (239, 254, False), (240, 255, True),
])  # fmt: skip
def test_the_last_bits_of_exponents_do_not_count(least: int, largest: int, is_short: bool) -> None:
    exponents = torch.randint(least, largest + 1, (1, 64, 32)).index_fill(1, torch.tensor([5]), least)
    exponents[:, 7] = largest
    weight = exponents << 7 | torch.randint(0, 2, exponents.shape) << 15 | torch.randint(0, 128, exponents.shape)
    codes = Codes((weight - (weight >> 15 << 16)).to(torch.int16).view(torch.bfloat16))
    short = PackedWeights(codes, short_exponents=True)
    assert (short.starts is not None) == is_short
    assert torch.equal(bits(short.rows(torch.arange(64))), bits(codes.values[0]))


def test_exponents_that_differ_too_much_are_not_shortened() -> None:
    weight = torch.randint(-(2**15), 2**15, (1, 64, 256), dtype=torch.int16).view(torch.bfloat16)
    assert PackedWeights(Codes(weight), short_exponents=True).starts is None


def test_the_check_of_bits_notices_another_exponent() -> None:
    codes, x = Codes(weights_of_few_exponents(1, 64, 64)), torch.ones(1, 64)
    plain, short = PackedWeights(codes), PackedWeights(codes, short_exponents=True)
    assert short.scales is not None
    assert torch.equal(packed.linear(x, short), packed.linear(x, plain))
    short.scales[0, 1] += 1
    assert not torch.equal(packed.linear(x, short), packed.linear(x, plain))


def test_experts_may_mix_both_forms_of_bfloat16() -> None:
    gate_up, down = (Codes(weights_of_few_exponents(4, *shape) / 64) for shape in ((128, 96), (96, 64)))
    x, experts = torch.randn(9, 96).bfloat16(), torch.randint(0, 4, (9, 2))
    chosen = torch.rand(9, 2)
    outputs = [
        packed.moe(x, experts, chosen, GatedMLPWeights(first, second))
        for first in (PackedWeights(gate_up), PackedWeights(gate_up, short_exponents=True))
        for second in (PackedWeights(down), PackedWeights(down, short_exponents=True))
    ]
    assert all(torch.equal(output, outputs[0]) for output in outputs)
    assert outputs[0].abs().sum() > 0


def test_weights_with_short_exponents_can_be_moved() -> None:
    codes, x = Codes(weights_of_few_exponents(1, 64, 64)), torch.randn(3, 64)
    short = PackedWeights(codes, short_exponents=True)
    expected, address = packed.linear(x, short), short.address
    short.move(torch.clone)
    assert short.address == address
    assert torch.equal(packed.linear(x, short), expected)


def test_no_rows_give_no_rows() -> None:
    weights = PackedWeights(Codes(torch.randn(1, 40, 32)))
    assert packed.linear(torch.empty(0, 32), weights).shape == (0, 40)
    assert packed.grouped_linear(torch.empty(0, 32), torch.zeros(1, dtype=torch.int64), weights).shape == (0, 40)
    layer = Layer(Format.F32, torch.float32)
    nothing = slice(0, 0)
    assert packed.moe(*layer.choices(nothing), layer.routed, layer.shared, layer.gate_T[nothing]).shape == (0, 96)
    assert packed.gated_mlp(torch.empty(0, 96), layer.shared).shape == (0, 96)


@pytest.mark.parametrize(("kind", "other", "together"), [
    (Format.F32, Format.BF16, True),
    (Format.INT8, Format.INT8, True),
    (Format.INT8, Format.Q8_0, True),
    (Format.Q8_0, Format.Q4_1, True),
    (Format.INT4, Format.Q4_1, False),
    (Format.INT8, Format.BF16, False),
    (Format.INT8, Format.INT4, False),
])  # fmt: skip
def test_one_call_takes_weights_for_which_activations_have_one_form(
    kind: Format, other: Format, together: bool
) -> None:
    layer, mixed = Layer(kind, torch.float32), Layer(other, torch.float32)
    assert packed.supports_fused(torch.float32, layer.routed)
    assert packed.supports_fused(torch.float32, layer.routed, mixed.shared) == together


def test_groups_that_are_not_full_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 32"):
        PackedWeights(Codes(torch.zeros(1, 8, 24, dtype=torch.uint8), torch.ones(1, 8, 2)))


class Layer:
    """Six experts of width 64 and a shared one of width 32 over 96 coordinates, packed and plain, and 50 tokens."""

    def __init__(self, kind: Format, dtype: torch.dtype, bias: bool = False) -> None:
        self.routed, self.plain_routed = self._weights(kind, 6, 96, 64, bias)
        self.shared, self.plain_shared = self._weights(kind, 1, 96, 32, False)
        self.x_TD = torch.randn(50, 96).to(dtype)
        self.experts_TK = torch.rand(50, 6).topk(2).indices
        self.weights_TK = torch.rand(50, 2)
        self.weights_TK[3, 1] = self.weights_TK[7, 0] = self.weights_TK[7, 1] = 0
        self.gate_T = torch.randn(50)

    def _weights(
        self, kind: Format, experts: int, hidden: int, width: int, bias: bool
    ) -> tuple[GatedMLPWeights[PackedWeights], GatedMLPWeights[PlainWeights]]:
        gate_up, down = random_codes(kind, experts, 2 * width, hidden), random_codes(kind, experts, hidden, width)
        biases = (torch.randn(experts, 2 * width), torch.randn(experts, hidden)) if bias else (None, None)
        weights = GatedMLPWeights(PackedWeights(gate_up, biases[0]), PackedWeights(down, biases[1]))
        return weights, GatedMLPWeights(PlainWeights(gate_up, biases[0]), PlainWeights(down, biases[1]))

    def choices(self, part: slice = slice(None)) -> tuple[Tensor, Tensor, Tensor]:
        return self.x_TD[part], self.experts_TK[part], self.weights_TK[part]


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("clamp", [None, (1.7, 7.0)])
def test_moe_is_its_definition(dtype: torch.dtype, kind: Format, clamp: tuple[float, float] | None) -> None:
    layer = Layer(kind, dtype, bias=True)
    bound = 2 * max(BOUNDS[dtype], MOE_BOUNDS.get(kind, 0))
    for gate_T in (layer.gate_T, None):
        found = packed.moe(*layer.choices(), layer.routed, layer.shared, gate_T, clamp)
        plain = reference.moe(*layer.choices(), layer.plain_routed, layer.plain_shared, gate_T, clamp)
        assert error(found, plain) < bound
    found = packed.moe(*layer.choices(), layer.routed, clamp=clamp)
    assert error(found, reference.moe(*layer.choices(), layer.plain_routed, clamp=clamp)) < bound


@pytest.mark.parametrize("dtype", BOUNDS)
def test_gated_mlp_is_its_definition(dtype: torch.dtype) -> None:
    layer = Layer(Format.INT8, dtype)
    expected = reference.gated_mlp(layer.x_TD, layer.plain_shared)
    assert error(packed.gated_mlp(layer.x_TD, layer.shared), expected) < 2 * max(BOUNDS[dtype], MOE_BOUNDS[Format.INT8])


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_token_has_the_same_bits_among_any_others(dtype: torch.dtype, kind: Format) -> None:
    layer = Layer(kind, dtype)

    def compute(part: slice) -> Tensor:
        return packed.moe(*layer.choices(part), layer.routed, layer.shared, layer.gate_T[part])

    whole = compute(slice(None))
    for start, end in ((0, 1), (3, 4), (7, 8), (5, 20), (10, 50), (0, 49)):
        assert torch.equal(compute(slice(start, end)), whole[start:end])


@pytest.mark.parametrize("kind", KINDS)
def test_a_token_may_choose_an_expert_twice(kind: Format) -> None:
    layer = Layer(kind, torch.float32)
    layer.experts_TK[:] = layer.experts_TK[:, :1]
    expected = reference.moe(*layer.choices(), layer.plain_routed)
    found = packed.moe(*layer.choices(), layer.routed)
    assert error(found, expected) < 2 * max(BOUNDS[torch.float32], MOE_BOUNDS.get(kind, 0))
    for t in range(5):
        assert torch.equal(packed.moe(*layer.choices(slice(t, t + 1)), layer.routed), found[t : t + 1])


def test_a_choice_of_weight_zero_is_not_computed() -> None:
    """Its expert may hold anything."""
    layer = Layer(Format.F32, torch.float32)
    layer.weights_TK[layer.experts_TK == 4] = 0
    expected = packed.moe(*layer.choices(), layer.routed)
    layer.routed.down.data.view(torch.float32).view(6, -1)[4] = torch.nan
    assert torch.equal(packed.moe(*layer.choices(), layer.routed), expected)
    layer.weights_TK[0], layer.experts_TK[0, 0] = 1, 4
    assert packed.moe(*layer.choices(), layer.routed)[0].isnan().all()


def test_moe_is_the_same_with_any_number_of_threads() -> None:
    gate_up, down = torch.randn(4, 512, 256).bfloat16(), torch.randn(4, 256, 256).bfloat16()
    weights = GatedMLPWeights(PackedWeights(Codes(gate_up)), PackedWeights(Codes(down)))
    x = torch.randn(30, 256).bfloat16()
    choices = torch.rand(30, 4).topk(2).indices, torch.rand(30, 2)
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            found.append(packed.moe(x, *choices, weights))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(y, found[0]) for y in found)

"""Every compiled kernel against its definition, on random shapes, in both element types; and row by row invariance."""

from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model import kernels
from model.kernels import reference
from model.kernels.cpu import autograd, inference
from model.kernels.types import QKNorms
from tests.model.kernels.random_inputs import DTYPES, close, normal
from tests.model.kernels.threads import threads

pytestmark = pytest.mark.usefixtures("kernel_target")  # at every level that runs here, and for aarch64


@pytest.mark.parametrize("dtype", DTYPES)
@given(rows=st.integers(1, 9), width=st.sampled_from([1, 7, 16, 37, 48, 256]))
@settings(max_examples=10)
def test_token_kernels_equal_their_definitions(rows: int, width: int, dtype: torch.dtype) -> None:
    x, gate, weight = normal(rows, width, dtype=dtype), normal(rows, width, dtype=dtype), normal(width)
    close(inference.rms_norm(x, weight, 1e-6, 1.0), reference.rms_norm(x, weight, 1e-6, 1.0), dtype)
    close(inference.gated_rms_norm(x, gate, weight, 1e-6), reference.gated_rms_norm(x, gate, weight, 1e-6), dtype)
    close(inference.sigmoid_mul(x, gate), reference.sigmoid_mul(x, gate), dtype)
    halves = torch.cat([x, gate], dim=-1)
    close(inference.silu_mul(halves), reference.silu_mul(halves), dtype)
    close(inference.gelu_mul(halves), reference.gelu_mul(halves), dtype)
    close(inference.squared_relu(x), reference.squared_relu(x), dtype)
    shifted, bias = x + 2, normal(width)
    close(inference.layer_norm(shifted, weight, bias, 1e-5), reference.layer_norm(shifted, weight, bias, 1e-5), dtype)
    wide = halves * 6.0  # beyond the limit
    close(inference.clamped_mul(wide, 1.702, 7.0), reference.clamped_mul(wide, 1.702, 7.0), dtype)
    y_TKD, weights_TK, gate_T = normal(rows, 3, width, dtype=dtype), torch.rand(rows, 3), normal(rows)
    close(
        inference.moe_combine(y_TKD, weights_TK, x, gate_T), reference.moe_combine(y_TKD, weights_TK, x, gate_T), dtype
    )
    close(
        inference.moe_combine(y_TKD, weights_TK, None, None),
        reference.moe_combine(y_TKD, weights_TK, None, None),
        dtype,
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_strided_rows_equal_contiguous_ones(dtype: torch.dtype) -> None:
    """Such as slices of the outputs of a wider matrix."""
    wide, x, weight = normal(5, 100, dtype=dtype), normal(5, 64, dtype=dtype), normal(32)
    part = wide[:, 7:71]
    assert torch.equal(inference.sigmoid_mul(x, part), inference.sigmoid_mul(x, part.contiguous()))
    for rows in (part[:, :32], part.unflatten(1, (2, 32)), part.unflatten(1, (2, 32)).transpose(0, 1)):
        assert torch.equal(inference.rms_norm(rows, weight, 1e-6), inference.rms_norm(rows.contiguous(), weight, 1e-6))
    assert inference.rms_norm(wide[:0, :32], weight, 1e-6).shape == (0, 32)


@pytest.mark.parametrize("dtype", DTYPES)
def test_scaled_and_embedding_equal_their_definitions(dtype: torch.dtype) -> None:
    matrix, chosen = normal(9, 7, dtype=dtype), torch.tensor([8, 0, 3, 3])
    assert torch.equal(inference.embedding(matrix, chosen), reference.embedding(matrix, chosen))
    assert torch.equal(inference.scaled(matrix, 0.22), reference.scaled(matrix, 0.22))


def test_rotary_tables_equal_their_definition() -> None:
    positions, frequencies = torch.tensor([0, 1, 77, 130_000]), 10_000.0 ** -torch.linspace(0, 1, 13)
    for actual, expected in zip(
        inference.rotary_tables(positions, frequencies, 1.3),
        reference.rotary_tables(positions, frequencies, 1.3),
        strict=True,
    ):
        torch.testing.assert_close(actual, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [1.0, 0.22])
def test_scaled_sums_equal_their_definition(scale: float, dtype: torch.dtype) -> None:
    x, y = normal(5, 48, dtype=dtype), normal(5, 48, dtype=dtype)
    close(inference.add_scaled(x, y, scale), reference.add_scaled(x, y, scale), dtype)
    weight, total = normal(48), inference.add_scaled(x, y, scale)
    in_one, in_two = (
        inference.add_norm(x, y, scale, weight, 1e-6, 1.0),
        (total, inference.rms_norm(total, weight, 1e-6, 1.0)),
    )
    assert all(map(torch.equal, in_one, in_two))


@pytest.mark.parametrize("dtype", DTYPES)
@given(tokens=st.integers(1, 5), heads=st.integers(1, 3), half=st.integers(1, 40), rest=st.integers(0, 20))
@settings(max_examples=20)
def test_rotation_equals_its_definition(tokens: int, heads: int, half: int, rest: int, dtype: torch.dtype) -> None:
    """Of any width, and of heads that lie among other numbers."""
    whole = normal(tokens, heads + 2, 2 * half + rest + 3, dtype=dtype)
    x_THD = whole[:, 1:-1, : 2 * half + rest]
    angles_TW = (normal(tokens, half) * 9).repeat(1, 2)
    arguments = (x_THD, angles_TW.cos(), angles_TW.sin())
    close(inference.rotate(*arguments), reference.rotate(*arguments), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@given(
    tokens=st.sampled_from([1, 3, 90]), heads=st.integers(1, 6), groups=st.integers(1, 3), half=st.integers(1, 40),
    rest=st.integers(0, 20), normed=st.booleans(),
)  # fmt: skip
@settings(max_examples=20)
def test_queries_and_keys_are_normalized_and_rotated_in_one_pass(
    tokens: int, heads: int, groups: int, half: int, rest: int, normed: bool, dtype: torch.dtype
) -> None:
    """With the bits of one pass after the other, of heads that lie among other numbers or apart."""
    width = 2 * half + rest
    whole = normal(tokens, heads + groups + 1, width, dtype=dtype)
    q_THD, k_TGD = whole[:, :heads], whole[:, heads + 1 :]
    angles_TW = (normal(tokens, half) * 9).repeat(1, 2)
    tables = angles_TW.cos(), angles_TW.sin()
    norms = QKNorms(normal(width), normal(width), 1e-6, 1.0) if normed else None
    with threads(3):
        q, k = inference.qk_norm_rotate(q_THD, k_TGD, *tables, norms)
    for actual, expected in zip((q, k), reference.qk_norm_rotate(q_THD, k_TGD, *tables, norms), strict=True):
        close(actual, expected, dtype)
    if norms is not None:
        q_THD = inference.rms_norm(q_THD, norms.q_weight_K, 1e-6, 1.0)
        k_TGD = inference.rms_norm(k_TGD, norms.k_weight_K, 1e-6, 1.0)
    assert torch.equal(q, inference.rotate(q_THD, *tables))
    assert torch.equal(k, inference.rotate(k_TGD, *tables))
    apart = whole.transpose(0, 1).contiguous().transpose(0, 1)
    assert torch.equal(q, inference.qk_norm_rotate(apart[:, :heads], apart[:, heads + 1 :], *tables, norms)[0])


@given(tokens=st.integers(1, 6), experts=st.integers(1, 40), data=st.data())
@settings(max_examples=40)
def test_chosen_experts_equal_their_definition(tokens: int, experts: int, data: st.DataObject) -> None:
    """Among scores with ties, too: to the lowest index. Rows may be part of wider ones."""
    k, over_all = data.draw(st.integers(1, experts)), data.draw(st.booleans())
    scores_TE = (torch.randint(-4, 5, (tokens, experts + 1)) * data.draw(st.sampled_from([0.5, 20.0])))[:, :experts]
    (weights, chosen), (expected, indices) = (m.top_k_softmax(scores_TE, k, over_all) for m in (inference, reference))
    assert torch.equal(chosen, indices)
    torch.testing.assert_close(weights, expected, atol=1e-6, rtol=1e-5)


@given(
    layers=st.integers(1, 3), tokens=st.sampled_from([1, 7, 400]), experts=st.integers(1, 40), groups=st.integers(1, 4),
    data=st.data(),
)  # fmt: skip
@settings(max_examples=20)
def test_counts_of_choices_and_entropies_equal_their_definition(
    layers: int, tokens: int, experts: int, groups: int, data: st.DataObject
) -> None:
    """Of scores that are masked, infinite or no numbers, too."""
    k = data.draw(st.integers(1, experts))
    logits = normal(layers, tokens, experts) * 5
    for value in (-torch.inf, torch.inf, torch.nan):
        logits[torch.rand(logits.shape) < data.draw(st.sampled_from([0.0, 0.01]))] = value
    weights, chosen = torch.rand(layers, tokens, k), torch.randint(experts, (layers, tokens, k))
    weights[torch.rand(weights.shape) < 0.3] = 0.0
    inputs = (logits, weights, chosen, torch.randint(groups, (tokens,)), groups)
    with threads(3):
        pairs, entropy, counted = inference.count_routing(*inputs)
    expected = reference.count_routing(*inputs)
    assert torch.equal(pairs, expected[0])
    assert pairs.sum() == weights.count_nonzero()
    assert torch.equal(counted, expected[2])
    torch.testing.assert_close(entropy, expected[1], atol=1e-5 * tokens, rtol=1e-5)


def test_scores_that_are_no_numbers_harm_their_own_token_only() -> None:
    scores_TE = normal(3, 8)
    scores_TE[1, [0, 5]] = torch.nan
    weights_TK, experts_TK = inference.top_k_softmax(scores_TE, 2, over_all=False)
    assert weights_TK.isfinite().tolist() == [[True, True], [False, False], [True, True]]
    assert all(len({*row}) == 2 and {*row} <= {*range(8)} for row in experts_TK.tolist())


def test_clamped_mul_bounds_what_it_gates() -> None:
    """By hand: the gate is cut at 7 from above only, the other half on both sides."""
    x = torch.tensor([9.0, -9.0, 1.0, 1.0]).repeat_interleave(16).unflatten(0, (2, 2, 16))  # [gates, ups] of two rows
    rows = torch.stack([torch.cat([x[0, 0], x[0, 1]]), torch.cat([x[0, 1], x[0, 0]])])
    gate = torch.tensor([7.0, -9.0])
    expected = gate * torch.sigmoid(1.702 * gate) * (torch.tensor([-7.0, 7.0]) + 1)
    for module in (inference, reference):
        close(module.clamped_mul(rows, 1.702, 7.0), expected[:, None].expand(2, 16), torch.float32)


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_no_number_is_not_bounded_into_one(dtype: torch.dtype) -> None:
    """In the same places as by the definition, so that whoever looks for NaN finds it."""
    x, gate = normal(3, 32, dtype=dtype), normal(3, 32, dtype=dtype)
    x[0, 3] = gate[1, 17] = torch.nan
    halves = torch.cat([x, gate], dim=-1)
    calls = {
        "sigmoid_mul": (x, gate), "silu_mul": (halves,), "clamped_mul": (halves, 1.702, 7.0),
        "gelu_mul": (halves,), "squared_relu": (halves,),
    }  # fmt: skip
    for name, arguments in calls.items():
        found, expected = (getattr(module, name)(*arguments).isnan() for module in (inference, reference))
        assert torch.equal(found, expected), name
        assert found.sum() == 2


@pytest.mark.parametrize("dtype", DTYPES)
def test_time_steps_equal_their_definition(dtype: torch.dtype) -> None:
    dt, bias = normal(9, 3, dtype=dtype) * 15, normal(3)
    for limits in ((0.0, float("inf")), (0.5, 2.0)):
        close(inference.time_steps(dt, bias, *limits), reference.time_steps(dt, bias, *limits), torch.float32)
    assert inference.time_steps(dt, bias, 0.5, 2.0).aminmax() == (0.5, 2.0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [1, 23, 256])
def test_a_row_has_the_same_bits_alone_and_among_others(width: int, dtype: torch.dtype) -> None:
    x, y, gate = (normal(33, width, dtype=dtype) for _ in range(3))
    weights_TK, weight = torch.rand(33, 2), normal(width)
    kernels_of_rows: dict[str, Callable[[slice], Tensor]] = {
        "rms_norm": lambda rows: inference.rms_norm(x[rows], weight, 1e-6),
        "add_norm": lambda rows: torch.cat(inference.add_norm(x[rows], y[rows], 0.22, weight, 1e-6), dim=1),
        "gated_rms_norm": lambda rows: inference.gated_rms_norm(x[rows], gate[rows], weight, 1e-6),
        "layer_norm": lambda rows: inference.layer_norm(x[rows], weight, weight, 1e-6),
        "gelu_mul": lambda rows: inference.gelu_mul(torch.cat([x, y], dim=1)[rows]),
        "squared_relu": lambda rows: inference.squared_relu(x[rows]),
        "silu_mul": lambda rows: inference.silu_mul(torch.cat([x, y], dim=1)[rows]),
        "clamped_mul": lambda rows: inference.clamped_mul(torch.cat([x, y], dim=1)[rows], 1.7, 2.0),
        "sigmoid_mul": lambda rows: inference.sigmoid_mul(x[rows], gate[rows]),
        "add_scaled": lambda rows: inference.add_scaled(x[rows], y[rows], 0.22),
        "moe_combine": lambda rows: inference.moe_combine(
            torch.stack([x, y], dim=1)[rows], weights_TK[rows], gate[rows], weights_TK[rows, 0]
        ),
    }
    for name, compute in kernels_of_rows.items():
        alone = torch.cat([compute(slice(row, row + 1)) for row in range(33)])
        assert torch.equal(compute(slice(None)), alone), name


def test_a_time_step_is_the_same_alone_and_a_product_of_pytorch_is_not() -> None:
    """The plain float32 product is the negative control of the tests of rows."""
    x, (dt, bias) = normal(33, 256), (normal(33, 5), normal(5))
    whole = inference.time_steps(dt, bias, 0.0, 9.0)
    assert torch.equal(whole, torch.cat([inference.time_steps(row[None], bias, 0.0, 9.0) for row in dt]))
    matrix = normal(64, 256)
    product = torch.cat([torch.nn.functional.linear(row[None], matrix) for row in x])
    assert not torch.equal(torch.nn.functional.linear(x, matrix), product)


def gradients(function: Callable[..., Tensor], inputs: list[Tensor], weights: Tensor) -> list[Tensor]:
    leaves = [x.clone().requires_grad_() for x in inputs]
    (function(*leaves).float() * weights).sum().backward()
    return [leaf.grad for leaf in leaves if leaf.grad is not None]


TRAINED: dict[str, tuple[Callable[[], list[Tensor]], Callable[..., tuple[object, ...]]]] = {
    "rms_norm": (lambda: [normal(7, 48), normal(48)], lambda x, w: (x, w, 1e-6, 1.0)),
    "gated_rms_norm": (lambda: [normal(7, 48), normal(7, 48), normal(48)], lambda x, g, w: (x, g, w, 1e-6)),
    "silu_mul": (lambda: [normal(7, 96)], lambda x: (x,)),
    "clamped_mul": (lambda: [normal(7, 96) * 6], lambda x: (x, 1.702, 7.0)),
    "time_steps": (lambda: [normal(7, 3), normal(3)], lambda dt, bias: (dt, bias, 0.0, 2.0)),
    "short_conv_train": (lambda: [normal(3, 11, 32), normal(32, 4)], lambda x, w: (x, w, None, True)),
    "short_conv_train, bias": (lambda: [normal(3, 11, 32), normal(32, 4), normal(32)], lambda *a: (*a, True)),
    "short_conv_train, no SiLU": (lambda: [normal(18, 1, 32), normal(32, 3), normal(32)], lambda *a: (*a, False)),
    "delta_rule_train": (
        lambda: [*(normal(2, 37, 2, 32) for _ in range(3)), -torch.rand(2, 37, 2), torch.rand(2, 37, 2)],
        lambda *inputs: inputs,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(TRAINED))
def test_gradients_equal_those_of_the_definition(name: str) -> None:
    make, call = TRAINED[name]
    name = name.partition(",")[0]
    inputs = make()
    fast, plain = getattr(autograd, name, None) or getattr(kernels, name), getattr(reference, name)
    out = plain(*call(*inputs))
    close(fast(*call(*inputs)), out, torch.float32)
    weights = torch.randn_like(out)
    actual = gradients(lambda *x: fast(*call(*x)), inputs, weights)
    expected = gradients(lambda *x: plain(*call(*x)), inputs, weights)
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, atol=1e-4, rtol=1e-4)


def test_the_gradients_of_normalized_and_rotated_heads_equal_those_of_the_definition() -> None:
    inputs, angles_TW = [normal(7, 4, 32), normal(7, 2, 32), normal(32), normal(32)], (normal(7, 12) * 9).repeat(1, 2)
    weights = normal(7, 6, 32)

    def of(module: ModuleType) -> list[Tensor]:
        def both(q: Tensor, k: Tensor, *norms: Tensor) -> Tensor:
            heads = module.qk_norm_rotate(q, k, angles_TW.cos(), angles_TW.sin(), QKNorms(*norms, 1e-6))
            return torch.cat(heads, dim=1)

        return gradients(both, inputs, weights)

    for actual, expected in zip(of(autograd), of(reference), strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)


def test_softmax_gradient_equals_its_definition() -> None:
    logits, targets, weights = normal(5, 64) * 4, torch.randint(0, 64, (5,)), torch.rand(5)
    expected = reference.softmax_gradient(logits, targets, weights)
    for actual, wanted in zip(autograd.softmax_gradient(logits.clone(), targets, weights), expected, strict=True):
        close(actual, wanted, torch.float32)

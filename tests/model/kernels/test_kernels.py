"""Every compiled kernel against its definition, on random shapes, in both element types; and row by row invariance."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.kernels import cpu, cpu_autograd, native, reference

pytestmark = pytest.mark.skipif(not native.available(), reason="no compiled kernels: run python -m model.kernels.build")

DTYPES = [torch.float32, torch.bfloat16]
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2e-2}


def close(actual: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    torch.testing.assert_close(actual.float(), expected.float(), atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


def normal(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape).to(dtype)


def ragged(lengths: list[int]) -> tuple[Tensor, Tensor]:
    """Starts and (shuffled) rows of sequences of those lengths."""
    starts = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32)
    return starts, torch.randperm(len(lengths) + 1)[: len(lengths)].to(torch.int32)


@pytest.mark.parametrize("dtype", DTYPES)
@given(rows=st.integers(1, 9), width=st.sampled_from([16, 48, 256]))
@settings(max_examples=10, deadline=None)
def test_token_kernels_equal_their_definitions(rows: int, width: int, dtype: torch.dtype) -> None:
    x, gate, weight = normal(rows, width, dtype=dtype), normal(rows, width, dtype=dtype), normal(width)
    close(cpu.rms_norm(x, weight, 1e-6, 1.0), reference.rms_norm(x, weight, 1e-6, 1.0), dtype)
    close(cpu.gated_rms_norm(x, gate, weight, 1e-6), reference.gated_rms_norm(x, gate, weight, 1e-6), dtype)
    close(cpu.sigmoid_mul(x, gate), reference.sigmoid_mul(x, gate), dtype)
    halves = torch.cat([x, gate], dim=-1)
    close(cpu.silu_mul(halves), reference.silu_mul(halves), dtype)
    y_TKD, weights_TK, gate_T = normal(rows, 3, width, dtype=dtype), torch.rand(rows, 3), normal(rows)
    close(cpu.combine(y_TKD, weights_TK, x, gate_T), reference.combine(y_TKD, weights_TK, x, gate_T), dtype)
    close(cpu.combine(y_TKD, weights_TK, None, None), reference.combine(y_TKD, weights_TK, None, None), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@given(lengths=st.lists(st.integers(1, 20), min_size=1, max_size=4), grouped=st.booleans())
@settings(max_examples=10, deadline=None)
def test_recurrent_kernels_equal_their_definitions(lengths: list[int], grouped: bool, dtype: torch.dtype) -> None:
    tokens, heads, key_heads, width = sum(lengths), 4, 2 if grouped else 4, 32
    starts, rows = ragged(lengths)
    a, b = normal(tokens, heads, dtype=dtype), normal(tokens, heads, dtype=dtype)
    gates = cpu.delta_gates(a, b, torch.randn(heads), torch.randn(heads))
    q, k = normal(tokens, key_heads, width, dtype=dtype), normal(tokens, key_heads, width, dtype=dtype)
    v, state = normal(tokens, heads, width, dtype=dtype), normal(len(lengths) + 1, heads, width, width)
    states = [state.clone(), state.clone()]
    outs = [m.delta_rule(q, k, v, *gates, s, rows, starts) for m, s in zip((cpu, reference), states, strict=True)]
    close(*outs, dtype)
    close(*states, dtype)
    x, weight, history = normal(tokens, 48, dtype=dtype), normal(48, 4), normal(len(lengths) + 1, 3, 48)
    histories = [history.clone(), history.clone()]
    outs = [m.short_conv(x, weight, h, rows, starts) for m, h in zip((cpu, reference), histories, strict=True)]
    close(*outs, dtype)
    assert torch.equal(*histories)


def test_delta_gates_equal_their_definition() -> None:
    arguments = (normal(5, 3) * 8, normal(5, 3), normal(3), normal(3))
    for actual, expected in zip(cpu.delta_gates(*arguments), reference.delta_gates(*arguments), strict=True):
        close(actual, expected, torch.float32)


@pytest.mark.parametrize("dtype", DTYPES)
@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=4), seed=st.integers(0, 99))
@settings(max_examples=10, deadline=None)
def test_paged_attention_equals_its_definition(lengths: list[int], seed: int, dtype: torch.dtype) -> None:
    torch.manual_seed(seed)
    past = torch.randint(0, 40, (len(lengths),)).tolist()
    starts, _ = ragged(lengths)
    positions = torch.cat([torch.arange(p, p + n) for p, n in zip(past, lengths, strict=True)])
    table = torch.randperm(5 * len(lengths)).view(len(lengths), 5).to(torch.int32)
    caches = [normal(5 * len(lengths), 16, 2, 32, dtype=dtype) for _ in range(2)]
    k, v = normal(sum(lengths), 2, 32, dtype=dtype), normal(sum(lengths), 2, 32, dtype=dtype)
    plain = [cache.clone() for cache in caches]
    cpu.store_kv(k, v, *caches, positions, starts, table)
    reference.store_kv(k, v, *plain, positions, starts, table)
    assert torch.equal(caches[0], plain[0])
    assert torch.equal(caches[1], plain[1])
    q = normal(sum(lengths), 4, 32, dtype=dtype)
    actual = cpu.paged_attention(q, *caches, positions, starts, table)
    close(actual, reference.paged_attention(q, *caches, positions, starts, table), dtype)


def test_sequences_and_rows_do_not_feel_their_neighbours() -> None:
    """Bitwise: a token alone equals the same token among others; the plain float32 product is the counterexample."""
    x, weight = normal(33, 256), normal(256)
    whole = cpu.gated_rms_norm(x, x.flip(1).contiguous(), weight, 1e-6)
    alone = torch.cat([cpu.gated_rms_norm(r[None], r.flip(0)[None].contiguous(), weight, 1e-6) for r in x])
    assert torch.equal(whole, alone)
    matrix = normal(64, 256)
    product = torch.cat([torch.nn.functional.linear(row[None], matrix) for row in x])
    assert not torch.equal(torch.nn.functional.linear(x, matrix), product)


@pytest.mark.parametrize("cut", [1, 5, 16, 31])
def test_a_recurrence_cut_anywhere_is_the_same_to_the_last_bit(cut: int) -> None:
    tokens, width = 32, 64
    q, k, v = (normal(tokens, 2, width, dtype=torch.bfloat16) for _ in range(3))
    decay, beta = -torch.rand(tokens, 2), torch.rand(tokens, 2)
    row, whole, pieces = (
        torch.zeros(1, dtype=torch.int32),
        torch.zeros(1, 2, width, width),
        torch.zeros(1, 2, width, width),
    )

    def run(span: slice, state: Tensor) -> Tensor:
        starts = torch.tensor([0, len(q[span])], dtype=torch.int32)
        return cpu.delta_rule(q[span], k[span], v[span], decay[span], beta[span], state, row, starts)

    expected = run(slice(None), whole)
    actual = torch.cat([run(slice(0, cut), pieces), run(slice(cut, None), pieces)])
    assert torch.equal(actual, expected)
    assert torch.equal(pieces, whole)


def gradients(function: Callable[..., Tensor], inputs: list[Tensor], weights: Tensor) -> list[Tensor]:
    leaves = [x.clone().requires_grad_() for x in inputs]
    (function(*leaves).float() * weights).sum().backward()
    return [leaf.grad for leaf in leaves if leaf.grad is not None]


TRAINED: dict[str, tuple[Callable[[], list[Tensor]], Callable[..., tuple[object, ...]]]] = {
    "rms_norm": (lambda: [normal(7, 48), normal(48)], lambda x, w: (x, w, 1e-6, 1.0)),
    "gated_rms_norm": (lambda: [normal(7, 48), normal(7, 48), normal(48)], lambda x, g, w: (x, g, w, 1e-6)),
    "silu_mul": (lambda: [normal(7, 96)], lambda x: (x,)),
    "short_conv_train": (lambda: [normal(3, 11, 32), normal(32, 4)], lambda x, w: (x, w)),
    "delta_rule_train": (
        lambda: [*(normal(2, 37, 2, 32) for _ in range(3)), -torch.rand(2, 37, 2), torch.rand(2, 37, 2)],
        lambda *inputs: inputs,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(TRAINED))
def test_gradients_equal_those_of_the_definition(name: str) -> None:
    make, call = TRAINED[name]
    inputs = make()
    fast, plain = getattr(cpu_autograd, name), getattr(reference, name)
    out = plain(*call(*inputs))
    close(fast(*call(*inputs)), out, torch.float32)
    weights = torch.randn_like(out)
    actual = gradients(lambda *x: fast(*call(*x)), inputs, weights)
    expected = gradients(lambda *x: plain(*call(*x)), inputs, weights)
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, atol=1e-4, rtol=1e-4)


def test_softmax_gradient_equals_its_definition() -> None:
    logits, targets, weights = normal(5, 64) * 4, torch.randint(0, 64, (5,)), torch.rand(5)
    expected = reference.softmax_gradient(logits, targets, weights)
    for actual, wanted in zip(cpu_autograd.softmax_gradient(logits.clone(), targets, weights), expected, strict=True):
        close(actual, wanted, torch.float32)


def test_the_chunked_delta_rule_equals_the_recurrence() -> None:
    inputs = [normal(1, 50, 2, 32) for _ in range(3)] + [-torch.rand(1, 50, 2), torch.rand(1, 50, 2)]
    starts, row = torch.tensor([0, 50], dtype=torch.int32), torch.zeros(1, dtype=torch.int32)
    flat = [x[0] for x in inputs]
    expected = reference.delta_rule(*flat, torch.zeros(1, 2, 32, 32), row, starts)
    close(reference.delta_rule_train(*inputs)[0], expected, torch.float32)

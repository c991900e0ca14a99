"""What carries a state from token to token: short convolution, delta rules, Mamba-2 and Mamba-1."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.kernels import reference
from model.kernels.cpu import inference
from model.kernels.types import GatedDelta, SelectiveScan
from tests.model.kernels.random_inputs import DTYPES, close, normal, ragged, starts_of

pytestmark = pytest.mark.usefixtures("kernel_target")  # at every level that runs here, and for aarch64

LENGTHS = st.lists(st.integers(1, 20), min_size=1, max_size=4)


@pytest.mark.parametrize("dtype", DTYPES)
@given(
    lengths=LENGTHS,
    channels=st.sampled_from([3, 37, 48]),
    taps=st.integers(2, 8),
    bias=st.booleans(),
    silu=st.booleans(),
)
@settings(max_examples=15)
def test_short_conv(lengths: list[int], channels: int, taps: int, bias: bool, silu: bool, dtype: torch.dtype) -> None:
    starts, rows = ragged(lengths)
    x, weight = normal(sum(lengths), channels, dtype=dtype), normal(channels, taps)
    bias_C = normal(channels) if bias else None
    history = normal(len(lengths) + 1, taps - 1, channels)
    histories = [history.clone(), history.clone()]
    outs = [
        m.short_conv(x, weight, bias_C, h, rows, starts, silu)
        for m, h in zip((inference, reference), histories, strict=True)
    ]
    close(*outs, dtype)
    assert torch.equal(*histories)


def gated_delta_weights(taps: int = 4, key_heads: int = 2, width: int = 32) -> GatedDelta:
    """Of four value heads."""
    channels = (2 * key_heads + 4) * width
    return GatedDelta(normal(channels, taps), normal(4), normal(4), normal(width), 1e-6, key_width=width)


def gated_delta_inputs(tokens: int, weights: GatedDelta, dtype: torch.dtype) -> Tensor:
    """With gates far beyond where they are nearly open or shut."""
    mixed_and_z = normal(tokens, len(weights.conv_CJ) + 4 * len(weights.norm_V), dtype=dtype)
    return torch.cat([mixed_and_z, normal(tokens, 2 * 4, dtype=dtype) * 8], dim=-1)


@pytest.mark.parametrize("dtype", DTYPES)
@given(lengths=LENGTHS, taps=st.integers(2, 5), key_heads=st.sampled_from([1, 2, 4]), width=st.sampled_from([16, 64]))
@settings(max_examples=10)
def test_gated_delta(lengths: list[int], taps: int, key_heads: int, width: int, dtype: torch.dtype) -> None:
    starts, rows = ragged(lengths)
    weights = gated_delta_weights(taps, key_heads, width)
    x = gated_delta_inputs(sum(lengths), weights, dtype)
    conv, delta = normal(len(lengths) + 1, taps - 1, len(weights.conv_CJ)), normal(len(lengths) + 1, 4, width, width)
    states = [(conv.clone(), delta.clone()) for _ in range(2)]
    outs = [m.gated_delta(x, weights, *s, rows, starts) for m, s in zip((inference, reference), states, strict=True)]
    close(*outs, dtype)
    (conv_a, delta_a), (conv_b, delta_b) = states
    assert torch.equal(conv_a, conv_b)
    close(delta_a, delta_b, dtype)
    untouched = sorted({*range(len(lengths) + 1)} - {*rows.tolist()})
    assert torch.equal(delta_a[untouched], delta[untouched])


def mamba_inputs(tokens: int, sizes: tuple[int, int, int, int], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """x, dt, A, B and C for (heads, head width, groups, state width)."""
    heads, width, groups, state = sizes
    B, C = (normal(tokens, groups, state, dtype=dtype) * state**-0.5 for _ in range(2))
    return [normal(tokens, heads, width, dtype=dtype), torch.rand(tokens, heads), -torch.rand(heads) * 4, B, C]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "sizes", [(4, 16, 1, 16), (4, 64, 2, 128), (3, 32, 3, 256), (2, 48, 1, 80), (2, 8, 1, 16)], ids=str
)
@given(lengths=LENGTHS)
@settings(max_examples=5)
def test_mamba_scan(lengths: list[int], sizes: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    starts, rows = ragged(lengths)
    x, dt, A, B, C = mamba_inputs(sum(lengths), sizes, dtype)
    state = normal(len(lengths) + 1, sizes[0], sizes[1], sizes[3])
    states = [state.clone(), state.clone()]
    outs = [m.mamba_scan(x, dt, A, B, C, s, rows, starts) for m, s in zip((inference, reference), states, strict=True)]
    close(*outs, dtype)
    close(*states, torch.float32)
    untouched = sorted({*range(len(lengths) + 1)} - {*rows.tolist()})
    assert torch.equal(states[0][untouched], state[untouched])


def selective_scan_inputs(
    tokens: int, channels: int, width: int, dtype: torch.dtype = torch.float32
) -> tuple[list[Tensor], SelectiveScan]:
    """x, dt, B, C and the gate, and the small weights."""
    shapes = (channels, channels, width, width, channels)
    inputs = [normal(tokens, size, dtype=dtype) for size in shapes]
    return inputs, SelectiveScan(normal(channels), normal(channels, width).abs().log(), normal(channels))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", [(16, 16), (96, 16), (32, 48), (24, 16), (16, 8)], ids=str)
@given(lengths=LENGTHS)
@settings(max_examples=5)
def test_selective_scan(lengths: list[int], sizes: tuple[int, int], dtype: torch.dtype) -> None:
    starts, rows = ragged(lengths)
    inputs, weights = selective_scan_inputs(sum(lengths), *sizes, dtype)
    state = normal(len(lengths) + 1, *sizes)
    states = [state.clone(), state.clone()]
    outs = [
        m.selective_scan(*inputs, weights, s, rows, starts) for m, s in zip((inference, reference), states, strict=True)
    ]
    close(*outs, dtype)
    close(*states, torch.float32)
    untouched = sorted({*range(len(lengths) + 1)} - {*rows.tolist()})
    assert torch.equal(states[0][untouched], state[untouched])


def kimi_delta_inputs(tokens: int, key_width: int, value_width: int, dtype: torch.dtype) -> list[Tensor]:
    """q, k, v, a and b of three heads, A_log and dt_bias."""
    shapes = ((3, key_width), (3, key_width), (3, value_width), (3, key_width), (3,))
    return [*(normal(tokens, *shape, dtype=dtype) for shape in shapes), normal(3), normal(3, key_width)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", [(16, 16), (32, 64), (128, 128), (8, 16)], ids=str)
@given(lengths=LENGTHS)
@settings(max_examples=5)
def test_kimi_delta(lengths: list[int], sizes: tuple[int, int], dtype: torch.dtype) -> None:
    starts, rows = ragged(lengths)
    inputs, state = kimi_delta_inputs(sum(lengths), *sizes, dtype), normal(len(lengths) + 1, 3, *sizes)
    states = [state.clone(), state.clone()]
    outs = [m.kimi_delta(*inputs, s, rows, starts) for m, s in zip((inference, reference), states, strict=True)]
    close(*outs, dtype)
    close(*states, torch.float32)
    untouched = sorted({*range(len(lengths) + 1)} - {*rows.tolist()})
    assert torch.equal(states[0][untouched], state[untouched])


def test_equal_decays_of_all_coordinates_are_the_gated_delta_rule() -> None:
    q, k, v, a, b, A_log, dt_bias = kimi_delta_inputs(20, 32, 32, torch.float32)
    a, dt_bias = a[..., :1].expand(a.shape), dt_bias[:, :1].expand(dt_bias.shape)
    row = torch.zeros(1, dtype=torch.int32)
    found = reference.kimi_delta(q, k, v, a, b, A_log, dt_bias, torch.zeros(1, 3, 32, 32), row, starts_of([20]))
    gates = reference.delta_gates(a[..., 0], b, A_log, dt_bias[:, 0])
    close(found, reference.delta_rule(q, k, v, *gates, torch.zeros(1, 3, 32, 32), row, starts_of([20])), torch.float32)


@pytest.mark.parametrize("length", [1, 30])
def test_whole_rows_equal_the_served_recurrences(length: int) -> None:
    row, starts = torch.zeros(1, dtype=torch.int32), starts_of([length])
    inputs, weights = selective_scan_inputs(length, 16, 8)
    served = reference.selective_scan(*inputs, weights, torch.zeros(1, 16, 8), row, starts)
    close(reference.selective_scan_train(*(x[None] for x in inputs), weights)[0], served, torch.float32)
    *of_tokens, A_log, dt_bias = kimi_delta_inputs(length, 16, 32, torch.float32)
    served = reference.kimi_delta(*of_tokens, A_log, dt_bias, torch.zeros(1, 3, 16, 32), row, starts)
    trained = reference.kimi_delta_train(*(x[None] for x in of_tokens), A_log, dt_bias)
    close(trained[0], served, torch.float32)


def test_a_time_step_of_zero_changes_no_state() -> None:
    x, dt, A, B, C = mamba_inputs(5, (2, 16, 1, 16))
    state, row = normal(1, 2, 16, 16), torch.zeros(1, dtype=torch.int32)
    for still in (True, False):
        after = state.clone()
        inference.mamba_scan(x, dt * (not still), A, B, C, after, row, starts_of([5]))
        assert torch.equal(after, state) == still


Run = Callable[[slice, Tensor, Tensor, Tensor], Tensor]


def short_conv_run(dtype: torch.dtype) -> tuple[Run, Tensor]:
    x, weight, bias = normal(46, 64, dtype=dtype), normal(64, 4), normal(64)
    return lambda span, *state: inference.short_conv(x[span], weight, bias, *state, True), torch.zeros(2, 3, 64)


def gated_delta_run(dtype: torch.dtype) -> tuple[Run, Tensor]:
    """Its two states as views of one."""
    weights = gated_delta_weights()
    x, sizes = gated_delta_inputs(46, weights, dtype), [3 * len(weights.conv_CJ), 4 * 32 * 32]

    def run(span: slice, state: Tensor, rows_S: Tensor, starts_S1: Tensor) -> Tensor:
        conv, delta = (part.contiguous() for part in state.split(sizes, dim=1))
        states = conv.unflatten(1, (3, -1)), delta.unflatten(1, (4, 32, 32))
        out = inference.gated_delta(x[span], weights, *states, rows_S, starts_S1)
        state.copy_(torch.cat([conv, delta], dim=1))
        return out

    return run, torch.zeros(2, sum(sizes))


def mamba_run(dtype: torch.dtype) -> tuple[Run, Tensor]:
    x, dt, A, B, C = mamba_inputs(46, (4, 64, 2, 48), dtype)
    return lambda span, *state: inference.mamba_scan(x[span], dt[span], A, B[span], C[span], *state), torch.zeros(
        2, 4, 64, 48
    )


def selective_scan_run(dtype: torch.dtype) -> tuple[Run, Tensor]:
    inputs, weights = selective_scan_inputs(46, 48, 32, dtype)
    return lambda span, *state: inference.selective_scan(*(x[span] for x in inputs), weights, *state), torch.zeros(
        2, 48, 32
    )


def kimi_delta_run(dtype: torch.dtype) -> tuple[Run, Tensor]:
    *of_tokens, A_log, dt_bias = kimi_delta_inputs(46, 32, 64, dtype)
    return lambda span, *state: inference.kimi_delta(
        *(x[span] for x in of_tokens), A_log, dt_bias, *state
    ), torch.zeros(2, 3, 32, 64)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("make", [short_conv_run, gated_delta_run, mamba_run, selective_scan_run, kimi_delta_run])
def test_cut_anywhere_and_batched_anyhow_the_bits_are_the_same(
    make: Callable[[torch.dtype], tuple[Run, Tensor]], dtype: torch.dtype
) -> None:
    run, zeros = make(dtype)
    lengths, both = starts_of([32, 14]), torch.tensor([1, 0], dtype=torch.int32)
    whole = zeros.clone()
    expected = run(slice(None), whole, both, lengths)
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    assert torch.equal(run(slice(None), zeros.clone(), both, lengths), expected)
    torch.set_num_threads(threads)
    for cut in (1, 5, 16, 31):
        pieces, outs = zeros.clone(), []
        for row, first, last in [(1, 0, cut), (1, cut, 32), (0, 32, 46)]:
            state = (pieces, torch.tensor([row], dtype=torch.int32), starts_of([last - first]))
            outs.append(run(slice(first, last), *state))
        assert torch.equal(torch.cat(outs), expected)
        assert torch.equal(pieces, whole)


def test_the_comparison_can_fail() -> None:
    """Negative control: the chunked form, cut elsewhere, gives other bits."""
    x, dt, A, B, C = (t if t.dim() == 1 else t[None] for t in mamba_inputs(46, (4, 64, 2, 48)))
    outs = [reference.mamba_scan_train(x, dt, A, B, C, chunk=chunk) for chunk in (16, 32)]
    close(*outs, torch.float32)
    assert not torch.equal(*outs)


def delta_rule_inputs(length: int, keys_BLHK: Tensor) -> list[Tensor]:
    values, log_decay = normal(1, length, 2, 32), -torch.rand(1, length, 2)
    return [normal(1, length, 2, 32), keys_BLHK, values, log_decay, torch.rand(1, length, 2)]


def compare_chunks_with_recurrence(inputs: list[Tensor]) -> None:
    length, row = inputs[0].shape[1], torch.zeros(1, dtype=torch.int32)
    expected = reference.delta_rule(*(x[0] for x in inputs), torch.zeros(1, 2, 32, 32), row, starts_of([length]))
    close(reference.delta_rule_train(*inputs)[0], expected, torch.float32)


def test_the_chunked_delta_rule_equals_the_recurrence() -> None:
    compare_chunks_with_recurrence(delta_rule_inputs(50, normal(1, 50, 2, 32)))


def test_the_chunked_delta_rule_keeps_its_digits_where_keys_are_alike() -> None:
    q, k, v, log_decay, beta = delta_rule_inputs(70, normal(1, 1, 2, 32) + 0.01 * normal(1, 70, 2, 32))
    compare_chunks_with_recurrence([q, k, v, 0.001 * log_decay, 1 - 0.01 * beta])


def lower_triangle_of_alike_keys(size: int) -> Tensor:
    """[2, 3, size, size]: what is added to I in the delta rule where hardly anything is forgotten."""
    k = reference.normalize(normal(2, 3, 1, 32) + 0.01 * normal(2, 3, size, 32))
    return (k @ k.mT).tril(-1)


@pytest.mark.parametrize("size", [8, 32, 64])
@pytest.mark.parametrize("make", [lower_triangle_of_alike_keys, lambda size: normal(2, 3, size, size).tril(-1) / 8])
def test_inverse_of_a_unit_lower_triangular_matrix(make: Callable[[int], Tensor], size: int) -> None:
    A = make(size)
    expected = torch.linalg.inv(torch.eye(size, dtype=torch.float64) + A.double())
    close(reference._inverse_of_unit_lower(A), expected, torch.float32)


def test_products_over_the_whole_matrix_lose_the_digits() -> None:
    """Negative control: (I - A)(I + A^2)(I + A^4)... without blocks, for keys that are alike."""
    A, eye = lower_triangle_of_alike_keys(64), torch.eye(64)
    product, power = eye - A, A
    for _ in range(5):
        power = power @ power
        product = product + product @ power
    expected = torch.linalg.inv(eye.double() + A.double())
    assert (product - expected).abs().max() > 1


def mamba_step_by_step(x_BLHP: Tensor, dt_BLH: Tensor, A_H: Tensor, B_BLGN: Tensor, C_BLGN: Tensor) -> Tensor:
    """The recurrence, differentiable: what the gradients of the chunked form are compared with."""
    heads = x_BLHP.shape[2] // B_BLGN.shape[2]
    B, C = B_BLGN.repeat_interleave(heads, dim=2), C_BLGN.repeat_interleave(heads, dim=2)
    S, outs = torch.zeros(*x_BLHP.shape[:1], *x_BLHP.shape[2:], B.shape[-1]), []
    for t in range(x_BLHP.shape[1]):
        written = (dt_BLH[:, t, :, None] * x_BLHP[:, t])[..., None] * B[:, t, :, None]
        S = S * (dt_BLH[:, t] * A_H).exp()[..., None, None] + written
        outs.append(torch.einsum("bhpn,bhn->bhp", S, C[:, t]))
    return torch.stack(outs, 1)


@pytest.mark.parametrize("length", [1, 64, 131])
def test_the_chunked_mamba_equals_the_recurrence(length: int) -> None:
    x, dt, A, B, C = mamba_inputs(2 * length, (4, 16, 2, 24))
    rows = [t if t is A else t.unflatten(0, (2, length)) for t in (x, dt, A, B, C)]
    state, both = torch.zeros(2, 4, 16, 24), torch.arange(2, dtype=torch.int32)
    served = reference.mamba_scan(x, dt, A, B, C, state, both, starts_of([length, length]))
    close(reference.mamba_scan_train(*rows), served.unflatten(0, (2, length)), torch.float32)
    weights = torch.randn(2, length, 4, 16)
    gradients = []
    for function in (reference.mamba_scan_train, mamba_step_by_step):
        leaves = [t.clone().requires_grad_() for t in rows]
        gradients.append(torch.autograd.grad((function(*leaves) * weights).sum(), leaves))
    for actual, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)


def test_strong_decay_does_not_overflow() -> None:
    x, dt, _, B, C = (t[None] for t in mamba_inputs(70, (2, 16, 1, 16)))
    leaves = [t.requires_grad_() for t in (x, dt * 50, torch.tensor([-16.0, -1e-3]), B, C)]
    out = reference.mamba_scan_train(*leaves)
    assert out.isfinite().all()
    assert all(g.isfinite().all() for g in torch.autograd.grad(out.sum(), leaves))

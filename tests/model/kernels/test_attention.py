"""Attention over the paged cache: against its definition in all variants, and bit by bit whatever shares the step."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from model.kernels import reference
from model.kernels.cpu import inference
from model.kernels.types import Paging
from tests.isa import AARCH64
from tests.model.kernels.random_inputs import DTYPES, close, normal, starts_of
from tests.model.kernels.threads import threads

pytestmark = pytest.mark.usefixtures("kernel_target")  # at every level that runs here, and for aarch64

BLOCK = 16


@dataclass(frozen=True, slots=True)
class Shape:
    """Query heads, key/value heads, key width; a value width where values are the first coordinates of the keys."""

    heads: int
    groups: int
    width: int
    latent: int | None = None


SHAPES = [
    Shape(4, 2, 64), Shape(16, 8, 64), Shape(6, 2, 128), Shape(4, 1, 256), Shape(3, 3, 80), Shape(7, 1, 16),
    Shape(40, 1, 32), Shape(4, 2, 48), Shape(6, 1, 576, latent=512), Shape(4, 1, 48, latent=32),
]  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """The arguments of one call."""

    q_THD: Tensor
    keys_NPGD: Tensor
    values_NPGV: Tensor
    paging: Paging
    scale: float = 0.2
    window: int | None = None
    sinks_H: Tensor | None = None

    def run(self, module: object = inference) -> Tensor:
        out: Tensor = module.paged_attention(*(getattr(self, name) for name in self.__slots__))  # type: ignore[attr-defined]
        return out

    def only(self, sequence: int, first: int, last: int) -> "Step":
        """Some tokens of one sequence as a step of their own, on the same cache."""
        positions_T, starts_S1, block_table_SB = self.paging
        span = slice(int(starts_S1[sequence]) + first, int(starts_S1[sequence]) + last)
        table = block_table_SB[sequence : sequence + 1].clone()
        return replace(self, q_THD=self.q_THD[span], paging=Paging(positions_T[span], starts_of([last - first]), table))


def make_step(shape: Shape, past: list[int], new: list[int], dtype: torch.dtype) -> Step:
    """A random step. What no token may read is NaN: unwritten positions, and blocks of the table's padding."""
    ends = [p + n for p, n in zip(past, new, strict=True)]
    width = max(-(-end // BLOCK) for end in ends) + 1
    table = torch.randperm(len(ends) * width).view(len(ends), width).to(torch.int32)
    keys = torch.full((len(ends) * width, BLOCK, shape.groups, shape.width), torch.nan, dtype=dtype)
    values = torch.full_like(keys, torch.nan) if shape.latent is None else keys[..., : shape.latent]
    k = normal(sum(ends), shape.groups, shape.width, dtype=dtype)
    v = None if shape.latent else normal(sum(ends), shape.groups, shape.width, dtype=dtype)
    written = torch.cat([torch.arange(end) for end in ends])
    inference.store_kv(k, v, keys, values, Paging(written, starts_of(ends), table))
    positions = torch.cat([torch.arange(p, p + n) for p, n in zip(past, new, strict=True)])
    q = normal(sum(new), shape.heads, shape.width, dtype=dtype)
    return Step(q, keys, values, Paging(positions, starts_of(new), table))


def variants(step: Step) -> Iterator[Step]:
    """With and without a window, and sinks: each pair of the two, and windows within and beyond a block."""
    sinks = torch.randn(step.q_THD.shape[1])
    for window, has_sinks in ((None, False), (None, True), (1, True), (5, False), (70, True)):
        yield replace(step, window=window, sinks_H=sinks if has_sinks else None)


def skip_wide_heads(shape: Shape, kernel_target: str) -> None:
    if kernel_target == AARCH64 and shape.heads * shape.width > 700:
        pytest.skip("takes an emulator too long, for the same code as that of narrow heads")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=repr)
def test_equals_its_definition(shape: Shape, dtype: torch.dtype, kernel_target: str) -> None:
    skip_wide_heads(shape, kernel_target)
    torch.manual_seed(0)
    for step in variants(make_step(shape, [0, 130, 63, 9], [9, 1, 4, 67], dtype)):
        close(step.run(), step.run(reference), dtype)


@given(lengths=st.lists(st.tuples(st.integers(0, 150), st.integers(1, 40)), min_size=1, max_size=4), data=st.data())
@settings(max_examples=15)
def test_equals_its_definition_at_any_length(lengths: list[tuple[int, int]], data: st.DataObject) -> None:
    shape = data.draw(st.sampled_from([Shape(4, 2, 32), Shape(5, 1, 48, latent=16)]))
    window = data.draw(st.none() | st.integers(1, 200))
    step = make_step(shape, [p for p, _ in lengths], [n for _, n in lengths], torch.float32)
    step = replace(step, window=window)
    close(step.run(), step.run(reference), torch.float32)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=repr)
def test_tokens_do_not_feel_who_shares_the_step(shape: Shape, dtype: torch.dtype, kernel_target: str) -> None:
    """Bitwise: each token alone, and each sequence in pieces, equal the whole step on any number of threads."""
    skip_wide_heads(shape, kernel_target)
    past, new = [0, 190, 65], [70, 1, 13]
    for step in variants(make_step(shape, past, new, dtype)):
        wholes = []
        for count in (1, 3):
            with threads(count):
                wholes.append(step.run())
        pieces = [(0, 0, 1), (0, 1, 3), (0, 3, 63), (0, 63, 69), (0, 69, 70), (1, 0, 1), (2, 0, 5), (2, 5, 13)]
        parts = torch.cat([step.only(*piece).run() for piece in pieces])
        for whole in wholes:
            assert torch.equal(whole, parts)


def test_the_comparison_can_fail() -> None:
    """Negative control: PyTorch's own attention gives a token other bits alone than among others."""
    q, k, v = (normal(1, 2, 70, 64) for _ in range(3))
    whole = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    single = [
        functional.scaled_dot_product_attention(q[:, :, t : t + 1], k[:, :, : t + 1], v[:, :, : t + 1])
        for t in range(70)
    ]
    assert not torch.equal(whole, torch.cat(single, dim=2))


def place(step: Step, sequence: int, position: int) -> tuple[int, int]:
    return int(step.paging.block_table_SB[sequence, position // BLOCK]), position % BLOCK


@pytest.mark.parametrize("window", [1, 5, 64, 65])
def test_a_window_ends_where_it_should(window: int) -> None:
    step = replace(make_step(Shape(4, 2, 32), [149], [1], torch.float32), window=window)
    before = step.run()
    step.keys_NPGD[place(step, 0, 149 - window)] = torch.nan  # just outside
    step.values_NPGV[place(step, 0, 149 - window)] = torch.nan
    assert torch.equal(step.run(), before)
    step.values_NPGV[place(step, 0, 150 - window)] += 1.0  # the last one inside
    assert not torch.equal(step.run(), before)


def test_a_window_as_long_as_the_past_is_none() -> None:
    step = make_step(Shape(4, 2, 32), [149], [1], torch.float32)
    assert torch.equal(replace(step, window=150).run(), step.run())
    assert not torch.equal(replace(step, window=149).run(), step.run())


def test_a_sink_takes_its_share_and_adds_nothing() -> None:
    step = make_step(Shape(2, 1, 32), [80], [1], torch.float32)
    plain = step.run()
    assert torch.equal(replace(step, sinks_H=torch.full((2,), -1e4)).run(), plain)
    scores = torch.einsum(
        "thd,pd->htp", step.q_THD * step.scale, step.keys_NPGD[step.paging.block_table_SB[0].long()].flatten(0, 2)[:81]
    )
    total = torch.logsumexp(scores[:, 0], dim=-1)  # a sink of this score takes half
    close(replace(step, sinks_H=total).run(), plain / 2, torch.float32)
    close(replace(step, sinks_H=total + 20.0).run(), torch.zeros_like(plain), torch.float32)


@pytest.mark.parametrize("module", [inference, reference])
def test_storing_keys_alone_leaves_values_alone(module: object) -> None:
    keys, values = torch.zeros(4, BLOCK, 2, 32), torch.ones(4, BLOCK, 2, 32)
    table, starts = torch.tensor([[2, 1], [3, 0]], dtype=torch.int32), starts_of([3, 1])
    k, v = normal(4, 2, 32), normal(4, 2, 32)
    where = (keys, values, Paging(torch.tensor([15, 16, 17, 0]), starts, table))
    module.store_kv(k, None, *where)  # type: ignore[attr-defined]
    assert torch.equal(keys[[2, 1, 1, 3], [15, 0, 1, 0]], k)
    assert keys.count_nonzero() == k.numel()
    assert torch.equal(values, torch.ones_like(values))
    module.store_kv(k, v, *where)  # type: ignore[attr-defined]
    assert torch.equal(values[[2, 1, 1, 3], [15, 0, 1, 0]], v)


def test_the_keys_of_many_tokens_are_stored_by_several_threads() -> None:
    ends, shape = [150, 0, 1, 200], (2, 64)
    table = torch.randperm(4 * 13).view(4, 13).to(torch.int32)
    paging = Paging(torch.cat([torch.arange(end) for end in ends]), starts_of(ends), table)
    k, v = normal(sum(ends), *shape), normal(sum(ends), *shape)
    stored, expected = ([torch.zeros(4 * 13, BLOCK, *shape) for _ in "kv"] for _ in "ab")
    with threads(3):
        inference.store_kv(k, v, *stored, paging)
    reference.store_kv(k, v, *expected, paging)
    assert all(map(torch.equal, stored, expected))


def test_widths_that_are_not_compiled_go_to_the_definition() -> None:
    step = make_step(Shape(4, 2, 24), [5], [3], torch.float32)
    assert torch.equal(step.run(), step.run(reference))


def test_a_step_without_tokens() -> None:
    step = make_step(Shape(4, 2, 32), [5], [1], torch.float32)
    paging = step.paging._replace(positions_T=step.paging.positions_T[:0], starts_S1=starts_of([0]))
    empty = replace(step, q_THD=step.q_THD[:0], paging=paging)
    assert empty.run().shape == (0, 4, 32)

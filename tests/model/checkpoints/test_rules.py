"""Every merge undoes itself, works without data, and puts rows where ours are."""

from collections.abc import Iterator
from weakref import ref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from model.checkpoints.rules import (
    Chain,
    Concat,
    Interleaved,
    Merge,
    PairedHeads,
    PerHead,
    RotaryPairs,
    Same,
    Stack,
    Transpose,
)


def rows(*counts: int, inputs: int = 4) -> list[Tensor]:
    """Tensors of so many rows, no number twice."""
    numbers = torch.arange(sum(counts) * inputs, dtype=torch.float32).view(-1, inputs)
    return list(torch.split(numbers, list(counts)))


EXPERTS = torch.arange(3.0 * 8 * 4).view(3, 8, 4)
HEADS = (PairedHeads(2, before=3, rotary=4), PairedHeads(1, before=0, rotary=2, after=1))
MERGES: dict[str, tuple[Merge, list[Tensor]]] = {
    "same": (Same((6, 1, 2), (6, 2)), [torch.randn(6, 1, 2)]),
    "concat": (Concat((5, 3)), rows(5, 3)),
    "concat of stacked experts": (Concat((3, 5), dim=1), [EXPERTS[:, :3], EXPERTS[:, 3:]]),
    "per head": (PerHead(((2, (1, 2)), (1, (3,)))), rows(6, 3)),
    "stack": (Stack(2, (2, 1)), rows(2, 1, 2, 1)),
    "stack of biases": (Stack(2, (2, 1)), [torch.randn(size) for size in (2, 1, 2, 1)]),
    "transpose": (Transpose(), [EXPERTS]),
    "interleaved rows": (Interleaved(), [EXPERTS]),
    "interleaved columns": (Interleaved(dim=-1), [EXPERTS]),
    "interleaved bias": (Interleaved(dim=-1), [EXPERTS[..., 0]]),
    "rotary pairs": (RotaryPairs(HEADS), rows(14, 3)),
    "rotary pairs of biases": (RotaryPairs(HEADS), [torch.randn(14), torch.randn(3)]),
    "chain": (Chain((Transpose(), Interleaved())), [EXPERTS.mT]),
}


@pytest.mark.parametrize("name", MERGES)
def test_a_merge_undoes_itself(name: str) -> None:
    merge, tensors = MERGES[name]
    again = merge.split(merge.join(iter(tensors)))
    assert all(torch.equal(a, b) for a, b in zip(tensors, again, strict=True))


@pytest.mark.parametrize("name", MERGES)
def test_shapes_are_known_without_data(name: str) -> None:
    merge, tensors = MERGES[name]
    joined = merge.join(tensors)
    parts = merge.split(torch.empty(joined.shape, device="meta"))
    assert [part.shape for part in parts] == [tensor.shape for tensor in tensors]
    assert merge.join([tensor.to("meta") for tensor in tensors]).shape == joined.shape


@given(heads=st.integers(1, 4), sizes=st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_layouts_of_heads_undo_themselves(heads: int, sizes: list[int]) -> None:
    tensors = rows(heads * sum(sizes), 3)
    paired = (PairedHeads(heads, sum(sizes[1:]), 2 * sizes[0]), PairedHeads(1, 1, 2))
    for merge, parts in (
        (PerHead(((heads, tuple(sizes)), (1, (3,)))), tensors),
        (RotaryPairs(paired), rows(heads * (sum(sizes) + sizes[0]), 3)),
    ):
        again = merge.split(merge.join(parts))
        assert all(torch.equal(a, b) for a, b in zip(parts, again, strict=True))


def column(*numbers: float) -> Tensor:
    return torch.tensor(numbers)[:, None]


def test_heads_are_gathered_by_part() -> None:
    stored = column(10, 11, 20, 21)  # head 1: parts 10, 11; head 2: parts 20, 21
    assert PerHead(((2, (1, 1)),)).join([stored]).flatten().tolist() == [10, 20, 11, 21]


def test_experts_are_stacked_with_their_parts() -> None:
    gate_up = [column(1), column(2), column(3), column(4)]  # gate and up of expert 1, then of expert 2
    assert Stack(2, (1, 1)).join(gate_up).squeeze(-1).tolist() == [[1, 2], [3, 4]]


def test_turns_are_taken_apart() -> None:
    stored = column(1, -1, 2, -2, 3, -3)  # g0, u0, g1, u1, ...
    assert Interleaved().join([stored]).flatten().tolist() == [1, 2, 3, -1, -2, -3]
    assert Interleaved(dim=-1).join([stored.T]).flatten().tolist() == [1, 2, 3, -1, -2, -3]


def test_rotary_neighbours_become_halves() -> None:
    stored = column(7, 0.1, 0.2, 1.1, 1.2, 8)
    joined = RotaryPairs((PairedHeads(1, before=1, rotary=4, after=1),)).join([stored]).flatten()
    torch.testing.assert_close(joined, torch.tensor([7, 0.1, 1.1, 0.2, 1.2, 8]))


def test_turned_rows_give_the_same_rotation() -> None:
    """Rotating neighbours, as the checkpoint's model does, and halves, as ours does, agree up to the order of rows."""
    x, angle = torch.randn(6), torch.tensor([0.3, 1.1, -0.4])
    merge = RotaryPairs((PairedHeads(1, 0, 6),))

    def rotated(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        return first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()

    theirs = torch.stack(rotated(*x.view(3, 2).unbind(1)), dim=1).flatten()
    ours = torch.cat(rotated(*merge.join([x]).chunk(2)))
    torch.testing.assert_close(merge.join([theirs]), ours)


def test_a_stack_holds_one_expert_beside_the_whole() -> None:
    """What is joined is let go before the next expert is asked for, so that it need not be in memory."""
    read: list[ref[Tensor]] = []

    def reading() -> Iterator[Tensor]:
        for _ in range(4):
            assert sum(tensor() is not None for tensor in read) <= 1
            tensor = torch.zeros(2, 4)
            read.append(ref(tensor))
            yield tensor

    assert Stack(4, (2,)).join(reading()).shape == (4, 2, 4)

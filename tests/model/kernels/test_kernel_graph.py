"""Captured kernel calls: replayed on new content of the same memory; operations of PyTorch are reported."""

import pytest
import torch

from model import kernels
from model.kernels import native
from model.kernels.kernel_graph import KernelGraph, capture
from tests.model.kernels.random_inputs import normal

pytestmark = pytest.mark.usefixtures("cpu_isa")  # at every level that runs here


@torch.inference_mode()
def test_a_replay_reads_the_current_inputs() -> None:
    x, weight = normal(3, 32), normal(16)
    with capture() as graph:
        normed = kernels.rms_norm(x[:, 8:24], weight, 1e-6)
        out = kernels.scaled(normed, 3.0)
    assert graph.is_complete
    assert graph.nbytes == 2 * 3 * 16 * 4
    x.copy_(normal(3, 32))
    stale = out.clone()
    graph.replay()
    assert torch.equal(out, kernels.scaled(kernels.rms_norm(x[:, 8:24], weight, 1e-6), 3.0))
    assert not torch.equal(out, stale)


@torch.inference_mode()
def test_one_call_replays_as_python_does() -> None:
    """Floats stand between addresses there, and more arguments than a processor has registers."""
    x, y, weight = normal(3, 32), normal(3, 32), normal(32)
    gate_up, history = normal(3, 64), normal(4, 3, 32)
    rows, starts = torch.tensor([2, 0], dtype=torch.int32), torch.tensor([0, 1, 3], dtype=torch.int32)
    with capture() as graph:
        outs = [
            *kernels.add_norm(x, y, 0.5, weight, 1e-6, offset=1.0),
            kernels.clamped_mul(gate_up, 1.702, 7.0),
            kernels.short_conv(x, normal(32, 4), None, history, rows, starts, silu=True),
        ]
    memory = [*outs, history]
    before = [tensor.clone() for tensor in memory]
    x.copy_(normal(3, 32))
    graph.replay()
    replayed = [tensor.clone() for tensor in memory]
    history.copy_(before[-1])
    graph.replay_one_by_one()
    assert all(torch.equal(*pair) for pair in zip(replayed, memory, strict=True))
    assert not torch.equal(before[0], memory[0])


@torch.inference_mode()
def test_copies_are_made_at_each_replay() -> None:
    """Also of rows that are apart."""
    x, weight, target = normal(3, 32), normal(32), torch.zeros(2, 3, 16)
    with capture() as graph:
        out = kernels.rms_norm(x, weight, 1e-6)
    graph.add_copy(out[:, :16], target[0])
    graph.add_copy(out.view(6, 16)[:3], target[1])
    for replay in (graph.replay, graph.replay_one_by_one):
        x.copy_(normal(3, 32))
        replay()
        assert torch.equal(out, kernels.rms_norm(x, weight, 1e-6))
        assert torch.equal(target, torch.stack([out[:, :16], out.view(6, 16)[:3]]))


def test_a_call_with_too_many_arguments_is_refused() -> None:
    for arguments in ((0,) * 33, (0.5,) * 9):
        graph = KernelGraph()
        graph.add(native.function("cpu", "scaled_f32"), arguments, keep=())
        with pytest.raises(ValueError, match="at most 32 and 8"):
            graph.replay()


@torch.inference_mode()
@pytest.mark.parametrize(
    ("compute", "is_complete"),
    [
        (lambda x: x[:, 1:].unflatten(1, (3, 5)).transpose(0, 1), True),
        (lambda x: x.float().contiguous().flatten(), True),  # which it is already
        (lambda x: x + 1, False),
        (lambda x: x.t().contiguous(), False),
        (lambda x: x.half(), False),
        (lambda x: x.add_(1), False),
        (lambda x: x[0, 0].item(), False),
    ],
)
def test_whatever_pytorch_computes_makes_a_recording_incomplete(compute: object, is_complete: bool) -> None:
    x = normal(4, 16)
    with capture() as graph:
        compute(x)  # type: ignore[operator]
    assert graph.is_complete == is_complete


def test_nothing_is_captured_outside() -> None:
    with capture() as graph:
        pass
    kernels.scaled(normal(2, 2), 2.0)
    assert graph.calls == KernelGraph().calls == []

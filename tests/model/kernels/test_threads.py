"""Threads share the jobs of a kernel: each is done once, whoever calls, and nothing depends on a helper being there."""

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from model.kernels import cpu, native, reference
from tests.model.kernels.random_inputs import normal

pytestmark = pytest.mark.skipif(not native.available(), reason="no compiled kernels: run python -m model.kernels.build")


@pytest.fixture
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def silu_mul_in_three(x: Tensor) -> Tensor:
    torch.set_num_threads(3)  # PyTorch keeps the number by thread
    return cpu.silu_mul(x)


def test_callers_at_the_same_time_do_not_disturb_each_other() -> None:
    inputs = [normal(64 + number, 1024) for number in range(8)]
    expected = [reference.silu_mul(x) for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(20):
            found = list(pool.map(silu_mul_in_three, inputs))
            assert all(torch.allclose(*pair, atol=1e-5) for pair in zip(found, expected, strict=True))


def test_kernels_one_after_the_other_get_their_own_jobs(three_threads: None) -> None:
    """A helper that comes late to one must not take the jobs of the next for it."""
    inputs = [normal(rows, 512) for rows in (40, 400, 41, 300)]
    expected = [cpu.silu_mul(x) for x in inputs]
    for _ in range(500):
        assert all(torch.equal(cpu.silu_mul(x), y) for x, y in zip(inputs, expected, strict=True))


def test_a_forked_process_does_without_helpers() -> None:
    program = """
import os, sys, torch
from model.kernels import cpu
torch.set_num_threads(3)
x = torch.ones(64, 1024)
expected = cpu.silu_mul(x)  # helpers exist from here on, and only here
child = os.fork()
if child == 0:
    os._exit(0 if torch.equal(cpu.silu_mul(x), expected) else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-c", program], check=False, timeout=60)
    assert done.returncode == 0

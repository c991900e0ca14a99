"""The parts of a step, and what is read and computed is counted by hand."""

import pytest
import torch

from benchmarks.breakdown import PARTS, STEPS, Work, decode_steps
from benchmarks.kernels import random_weights
from model.checkpoints.hub import BUNDLED
from model.kernels.types import GatedMLPWeights
from model.loading.load import load_network
from server.engine.config import EngineConfig
from server.engine.engine import Engine

pytestmark = pytest.mark.compiled_kernels


def test_a_step_has_parts_and_work() -> None:
    engine = Engine(load_network(BUNDLED), EngineConfig(max_model_len=256, max_num_seqs=2, cache_bytes=2**25))
    steps, work = decode_steps(engine, 2)
    assert len(steps) == STEPS
    assert all(list(parts) == list(PARTS) and min(parts.values()) > 0 for parts in steps)
    assert 10e6 < work.bytes_read < 40e6  # the bundled model's matrices, some experts left out
    assert not engine.has_unfinished


def test_each_touched_expert_is_read_once() -> None:
    work, weights = Work(), GatedMLPWeights(random_weights("bf16", 4, 64, 32), random_weights("bf16", 4, 32, 32))
    work.count_moe(torch.zeros(2, 32), torch.tensor([[0, 1], [1, 0]]), weights, None)
    assert work.bytes_read == 2 * 2 * (64 * 32 + 32 * 32)
    assert work.operations == 2 * 4 * (64 * 32 + 32 * 32)

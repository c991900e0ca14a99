"""The parts of a step: they add up to it, and what is read and computed is counted by hand."""

import pytest
import torch

from benchmarks.breakdown import PARTS, Step, decode_steps
from benchmarks.kernels import random_panels
from model.kernels import product
from model.kernels.product import Feed
from model.loading import load_network
from server.bootstrap import BUNDLED
from server.engine.config import EngineConfig
from server.engine.engine import Engine

pytestmark = pytest.mark.skipif(
    not product.available(), reason="no compiled kernels: run python -m model.kernels.build"
)


def test_parts_add_up_to_the_step() -> None:
    engine = Engine(load_network(BUNDLED), EngineConfig(max_model_len=256, max_num_seqs=2, cache_bytes=2**25))
    for step in decode_steps(engine, 2):
        assert sum(step.parts().values()) == pytest.approx(step.seconds["step"])
        assert min(step.parts()[part] for part in PARTS) > 0
        assert step.bytes_read > 0
    assert not engine.has_unfinished


def test_each_touched_expert_is_read_once() -> None:
    step, feed = Step(), Feed(random_panels("bf16", 4, 64, 32), random_panels("bf16", 4, 32, 32))
    step.count_experts(torch.zeros(2, 32), torch.tensor([[0, 1], [1, 0]]), (feed, None))
    assert step.bytes_read == 2 * 2 * (64 * 32 + 32 * 32)
    assert step.operations == 2 * 4 * (64 * 32 + 32 * 32)

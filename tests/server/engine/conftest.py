"""Property tests run the same examples every time, so that a failure comes from the change under test."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

from model.network import CausalLM
from tests.server.engine.tiny import tiny_network

settings.register_profile("engine", deadline=None, database=None, derandomize=True)
settings.load_profile("engine")


@pytest.fixture(scope="session")
def network() -> CausalLM:
    """Shared by all tests; do not change it."""
    return tiny_network()


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny networks are faster with one thread, above all when other processes are busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)

"""A tiny network for every test of the engine."""

import pytest

from model.network import CausalLM
from tests.server.engine.tiny import tiny_network


@pytest.fixture(scope="session")
def network() -> CausalLM:
    """Shared by all tests; do not change it."""
    return tiny_network()

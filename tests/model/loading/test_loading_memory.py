"""How much memory loading takes on the way, measured in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from model.checkpoints.safetensors_files import save_weights
from model.config import hybrid_config
from model.families import qwen3_next
from model.network import CausalLM, cast_matrices

ROOT = Path(__file__).parents[3]
LARGE = hybrid_config(
    hidden_size=512, num_layers=4, num_heads=4, num_kv_heads=2, head_dim=64, num_experts=32, expert_width=512,
    shared_width=512, vocab_size=4096,
)  # fmt: skip
SMALL = hybrid_config(  # no matrix has 2 MB
    hidden_size=512, num_layers=32, num_heads=8, num_kv_heads=4, head_dim=64, num_experts=4, expert_width=512,
    shared_width=512, vocab_size=1024,
)  # fmt: skip
MEASURE = """
import sys
from pathlib import Path
import torch
import model
from model.checkpoints.safetensors_files import read_config
from model.families import qwen3_next
from model.loading.load import load_network
from model.network import CausalLM, cast_matrices
from model.loading.freeze import freeze_network
from tests.model.loading.plain_loading import load_weights

def load_whole_then_pack(directory):
    config = qwen3_next.config_from_hf(read_config(directory))
    network = cast_matrices(CausalLM(config), torch.bfloat16)
    load_weights(network, qwen3_next.rules(config), directory)
    return freeze_network(network)

def megabytes(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1024

torch.set_num_threads(1)
load = {"packing": load_network, "whole": load_whole_then_pack}[sys.argv[2]]
load_network(Path(model.__file__).parent / "bundled")  # what is imported and allocated once
Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
before = megabytes("VmRSS")
network = load(Path(sys.argv[1]))
print(megabytes("VmHWM") - before)
"""


@pytest.fixture(scope="module", params=[LARGE, SMALL], ids=["large matrices", "small ones"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 MB or more in bfloat16."""
    directory = tmp_path_factory.mktemp("checkpoint")
    network = cast_matrices(CausalLM(request.param), torch.bfloat16)
    (directory / "config.json").write_text(json.dumps(qwen3_next.config_to_hf(request.param)))
    save_weights(network, qwen3_next.rules(request.param), directory)
    return directory


def peak(checkpoint: Path, way: str) -> float:
    """Megabytes at the peak, of those of the weights."""
    command = [sys.executable, "-c", MEASURE, str(checkpoint), way]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return float(output) / ((checkpoint / "model.safetensors").stat().st_size / 2**20)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="measured as Linux tells it")
def test_loading_needs_little_more_than_the_weights(checkpoint: Path) -> None:
    assert peak(checkpoint, "packing") <= 1.15


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="measured as Linux tells it")
def test_loading_whole_would_need_more(checkpoint: Path) -> None:
    """Negative control."""
    assert peak(checkpoint, "whole") > 1.15

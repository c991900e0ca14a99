"""Which implementation computes: the compiled one where it was built, unless the definition is forced."""

import os
import subprocess
import sys

import pytest

from model import kernels

PROGRAM = """
import sys
import torch
from model import kernels
from model.kernels.cpu import inference
from model.kernels.kernel_graph import capture
from model.layers.linear import Linear
from model.quantization import plain_scheme

layer = plain_scheme(torch.float32).linear(Linear(32, 32).weight)
print(kernels.compiled(), kernels.instruction_set(), type(layer.weights).__name__)

compiled, inference.call = inference.call, lambda *arguments: print("compiled") or compiled(*arguments)
with torch.inference_mode():
    kernels.rms_norm(torch.ones(1, 16), torch.ones(16), 1e-6)
with capture():
    torch.empty(3)
print("torch._dynamo" in sys.modules)
"""


def choice(**variables: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "ROUTELM_REFERENCE_KERNELS"} | variables
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True)
    return done.stdout


def test_the_definitions_can_be_forced() -> None:
    assert choice(ROUTELM_REFERENCE_KERNELS="1") == "False None PlainWeights\nFalse\n"


@pytest.mark.compiled_kernels
def test_otherwise_the_compiled_ones_compute() -> None:
    """Negative control of the above. Neither imports PyTorch's compiler, which would take two seconds and 70 MB."""
    assert choice() == f"True {kernels.instruction_set()} PackedWeights\ncompiled\nFalse\n"

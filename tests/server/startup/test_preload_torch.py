"""torch's library is loaded before torch is imported."""

import subprocess
import sys
import threading
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from server.startup import preload_torch as module
from server.startup.preload_torch import preload_torch

PROGRAM = """
import sys, threading
from pathlib import Path
from server.startup.preload_torch import preload_torch
preload_torch()
for thread in threading.enumerate():
    if thread.name == "preload":
        thread.join()
print("torch" in sys.modules, "libtorch_cpu.so" in Path("/proc/self/maps").read_text())
import torch
print(torch.ones(2).sum().item())
"""


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="no /proc, which lists the loaded libraries")
def test_the_library_is_loaded_before_torch_is_imported() -> None:
    ended = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout.split() == ["False", "True", "2.0"]


@pytest.mark.parametrize(
    "spec", [None, ModuleSpec("torch", None), ModuleSpec("torch", None, origin="elsewhere/torch.py")]
)
def test_nothing_begins_where_there_is_no_such_library(
    spec: ModuleSpec | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: spec)
    preload_torch()
    assert "preload" not in {thread.name for thread in threading.enumerate()}


def test_a_library_that_cannot_be_loaded_is_left_to_torch(tmp_path: Path) -> None:
    broken = tmp_path / "libtorch_cpu.so"
    broken.write_bytes(b"no library")
    module._dlopen(broken)

"""Where the compiled kernels lie, and which of them this processor can run."""

from pathlib import Path

import torch


def library_path(target: str) -> Path:
    """The library built for an instruction set, by torch's name of it."""
    return Path(__file__).with_name(f"cpu_{target.lower()}.so")


def find_library() -> Path | None:
    """The best library that was built and that this processor can run."""
    capability = torch.backends.cpu.get_cpu_capability()
    runnable = {"AVX512": ("AVX512", "AVX2"), "AVX2": ("AVX2",)}.get(capability, ("DEFAULT",))
    return next((path for path in map(library_path, runnable) if path.exists()), None)

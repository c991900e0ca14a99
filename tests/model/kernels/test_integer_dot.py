"""The code of integer_dot.h for processors other than x86-64, which has instructions of its own for it."""

import ctypes
import platform
import subprocess
from pathlib import Path

import pytest
import torch

from model.kernels import build

HEADER = Path(build.__file__).parent / "matmul" / "integer_dot.h"
CODE = f"""
#include "{HEADER}"
extern "C" void round_products(const float* x, float y, int32_t* out, int64_t count) {{
    for (int64_t i = 0; i < count; i += LANES) {{
        i32v integers = nearest(load<f32v>(x + i) * y);
        std::memcpy(out + i, &integers, sizeof integers);
    }}
}}
"""


def test_products_are_rounded_before_they_become_integers(tmp_path: Path) -> None:
    """With FMA, which compilers use where they can, sums with a product round the exact product instead."""
    compiler = build.find_compiler()
    if compiler is None:
        pytest.skip("there is no compiler here")
    is_x86 = platform.machine() in ("x86_64", "AMD64")
    if is_x86 and torch.backends.cpu.get_cpu_capability() == "DEFAULT":
        pytest.skip("this processor has no FMA")
    flags = ["-mfma", "-U__SSE2__"] if is_x86 else []
    code, library_path = tmp_path / "rounding.cpp", tmp_path / "rounding.so"
    code.write_text(CODE)
    command = [compiler, "-std=c++17", "-O3", "-fno-math-errno", *flags, "-shared", "-fPIC", str(code)]
    subprocess.run([*command, "-o", str(library_path)], check=True)

    x, y, found = torch.randn(1 << 16), 9876.54321, torch.empty(1 << 16, dtype=torch.int32)
    function = ctypes.CDLL(str(library_path)).round_products
    function.argtypes = (ctypes.c_void_p, ctypes.c_float, ctypes.c_void_p, ctypes.c_int64)
    function(x.data_ptr(), y, found.data_ptr(), len(x))
    torch.testing.assert_close(found, (x * y).round().int(), rtol=0, atol=0)

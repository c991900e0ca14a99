"""Calls of kernels in another process, here of this machine's own architecture: the same bits, and faults are found."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from torch import Tensor

from model.kernels import build
from model.kernels.cpu import inference
from model.kernels.library import library_path
from model.kernels.matmul import packed
from model.kernels.matmul.codes import Codes
from model.kernels.matmul.packed import PackedWeights
from model.kernels.types import GatedMLPWeights
from tests.isa import use_level
from tests.model.kernels.aarch64.kernel_process import compile_driver, compute_in, kernel_process
from tests.model.kernels.random_inputs import close, normal, ragged

# The kernel `scaled`, and more of it.
KERNEL = """
#include <cstdint>
extern "C" int supported() {{ return {supported}; }}
extern "C" void scaled_f32(const float* x, float scale, float* out, int64_t count, int) {{
    for (int64_t i = 0; i < count; ++i) out[i] = scale * x[i];
    {more}
}}
"""


@pytest.fixture(scope="module")
def compiler() -> str:
    found = build.find_compiler()
    if found is None:
        pytest.skip("there is no compiler here")
    return found


@pytest.fixture(scope="module")
def driver(compiler: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_driver(compiler, tmp_path_factory.mktemp("driver"))


@pytest.fixture
def compute_with(compiler: str, driver: Path, tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Starts the process with the kernel `scaled` alone."""
    with ExitStack() as stack:

        def start(more: str, supported: int = 1) -> None:
            code, built = tmp_path / "kernel.cpp", tmp_path / "kernel.so"
            code.write_text(KERNEL.format(more=more, supported=supported))
            subprocess.run([compiler, "-shared", "-fPIC", str(code), "-o", str(built)], check=True)
            stack.enter_context(compute_in(stack.enter_context(kernel_process([driver], [built], tmp_path))))

        yield start


def results() -> list[Tensor]:
    """Of kernels with states, with weights behind addresses in structures, and with many arguments."""
    torch.manual_seed(0)
    x, history, (starts, rows) = normal(9, 64), normal(3, 3, 64), ragged([4, 5])
    nibbles = Codes(torch.randint(0, 256, (3, 128, 32), dtype=torch.uint8), torch.rand(3, 128, 2).half())
    down = Codes(torch.randint(0, 256, (3, 64, 32), dtype=torch.uint8), torch.rand(3, 64, 2).half())
    experts = GatedMLPWeights(PackedWeights(nibbles, normal(3, 128)), PackedWeights(down))
    choices = torch.rand(9, 3).topk(2).indices, torch.rand(9, 2)
    matrix = PackedWeights(Codes(normal(1, 40, 64).bfloat16()))
    return [
        *inference.add_norm(x, x.flip(0), 0.5, normal(64), 1e-6),
        inference.short_conv(x, normal(64, 4), None, history, rows, starts, True),
        history,
        packed.linear(x[2:5], matrix),
        matrix.rows(torch.tensor([39, 0])),
        packed.moe(x, *choices, experts, clamp=(1.7, 7.0)),
    ]


@pytest.mark.compiled_kernels
def test_another_process_computes_the_same_bits(driver: Path, tmp_path: Path) -> None:
    with use_level("generic"):
        expected = results()
    libraries = [library_path(source, "generic") for source in build.SOURCES]
    with kernel_process([driver], libraries, tmp_path) as process, compute_in(process):
        assert all(map(torch.equal, results(), expected))


@pytest.mark.parametrize(
    ("more", "is_right"), [("", True), ("out[3] += 1e-3f;", False), ("out[0] += x[count];", False)]
)
def test_wrong_numbers_are_found(compute_with: Callable[..., None], more: str, is_right: bool) -> None:
    """Also those that come from beyond the memory of a call."""
    compute_with(more)
    x = torch.rand(37)
    if is_right:
        close(inference.scaled(x, 3.0), x * 3, torch.float32)
    else:
        with pytest.raises(AssertionError, match="Tensor-likes are not close"):
            close(inference.scaled(x, 3.0), x * 3, torch.float32)


@pytest.mark.parametrize("place", ["out[count]", "out[-1]"])
def test_writes_beyond_the_memory_of_a_call_are_found(compute_with: Callable[..., None], place: str) -> None:
    compute_with(f"{place} = 0;")
    with pytest.raises(AssertionError, match="scaled_f32 wrote outside of its memory"):
        inference.scaled(torch.rand(37), 3.0)


def test_a_crash_is_told_with_the_kernel(compute_with: Callable[..., None]) -> None:
    compute_with("__builtin_trap();")
    with pytest.raises(AssertionError, match="scaled_f32: the process ended with -"):
        inference.scaled(torch.rand(37), 3.0)


def test_a_kernel_that_is_missing_is_told(compute_with: Callable[..., None], capfd: pytest.CaptureFixture[str]) -> None:
    compute_with("")
    with pytest.raises(AssertionError, match="squared_relu_f32: the process ended with 1"):
        inference.squared_relu(torch.rand(37))
    assert "no library has squared_relu_f32" in capfd.readouterr().err


def test_a_library_for_other_processors_is_refused(compute_with: Callable[..., None]) -> None:
    with pytest.raises(AssertionError, match="the start: the process ended with 1"):
        compute_with("", supported=0)

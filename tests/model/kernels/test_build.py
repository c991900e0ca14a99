"""Compiling the kernels, and choosing the library that this processor can run."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from model.kernels import build, library


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Libraries of this test, in a directory of their own."""

    def path(source: str, target: str) -> Path:
        return tmp_path / f"{source}_{target}.so"

    monkeypatch.setattr(library, "library_path", path)
    monkeypatch.setattr(build, "library_path", path)
    return tmp_path


def compiler() -> str:
    found = shutil.which("g++")
    if found is None:
        pytest.skip("there is no compiler here")
    return found


def compile_answer(directory: Path, target: str, supported: int, built_of: str | None = None) -> None:
    """A library that says whether it can be used, which one it is, and of what; by default of what is there."""
    code, digest = directory / f"{target}.c", built_of or library.source_digest()
    code.write_text(
        f'int supported() {{ return {supported}; }} const char* name() {{ return "{target}"; }}'
        f'const char* built_of() {{ return "{digest}"; }}'
    )
    library_path = directory / f"product_{target}.so"
    subprocess.run([compiler(), "-x", "c", "-shared", "-fPIC", str(code), "-o", str(library_path)], check=True)


def chosen() -> bytes | None:
    found = library.load_library.__wrapped__("product")
    if found is None:
        return None
    found.name.restype = ctypes.c_char_p
    name: bytes = found.name()
    return name


@pytest.mark.parametrize(
    ("built", "expected"),
    [
        ({}, None),
        ({"AVX2": 1}, b"AVX2"),
        ({"AVX2": 1, "AVX512": 1}, b"AVX512"),
        ({"AVX2": 1, "AVX512": 1, "AVX512BF16": 1}, b"AVX512BF16"),
        ({"AVX2": 1, "AVX512": 1, "AVX512BF16": 0}, b"AVX512"),
        ({"AVX512": 1, "AVX512VBMI": 1, "AVX512BF16": 0}, b"AVX512VBMI"),
        ({"AVX512BF16": 0}, None),
    ],
)
def test_the_best_library_that_runs_here_is_chosen(
    built: dict[str, int], expected: bytes | None, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    for target, supported in built.items():
        compile_answer(elsewhere, target, supported)
    assert chosen() == expected


def test_a_library_for_more_than_this_processor_is_not_opened(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    compile_answer(elsewhere, "AVX512", 1)
    assert chosen() is None


def test_what_the_compiler_says_is_told(elsewhere: Path) -> None:
    with pytest.raises(RuntimeError, match="no-such-option"):
        build.compile_target(compiler(), "product", "AVX2", ["--no-such-option"])
    assert list(elsewhere.glob("*.so")) == []


def test_without_a_compiler_nothing_is_built_and_nothing_fails(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert build.main([]) == 0
    assert "plain and slower" in capsys.readouterr().out
    assert list(elsewhere.iterdir()) == []


def test_a_library_of_other_sources_is_not_used(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It may take other arguments, and then computes nonsense without a word."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    compile_answer(elsewhere, "AVX2", 1)
    compile_answer(elsewhere, "AVX512", 1, built_of="of yesterday")
    assert chosen() == b"AVX2"
    assert "product_AVX512.so is of an older build" in caplog.text


def test_a_library_that_does_not_say_of_what_it_is_is_not_used(elsewhere: Path) -> None:
    """Such were all, once."""
    code = elsewhere / "old.c"
    code.write_text("int supported() { return 1; }")
    path = elsewhere / "old.so"
    subprocess.run([compiler(), "-x", "c", "-shared", "-fPIC", str(code), "-o", str(path)], check=True)
    assert not library.is_current(ctypes.CDLL(str(path)))


def test_what_is_built_now_is_current() -> None:
    paths = [path for path in build.libraries() if path.exists()]
    if not paths:
        pytest.skip("no compiled kernels: run python -m model.kernels.build")
    assert all(library.is_current(ctypes.CDLL(str(path))) for path in paths)


def test_every_library_of_a_build_is_named() -> None:
    names = {path.name for path in build.libraries()}
    assert {f"product_{target.lower()}.so" for target in build.targets()} <= names

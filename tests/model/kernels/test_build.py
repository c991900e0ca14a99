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
    """Libraries of this test, in a directory of their own, and no level that is forced from outside."""

    def path(source: str, level: str) -> Path:
        return tmp_path / f"{source}_{level}.so"

    monkeypatch.setattr(library, "library_path", path)
    monkeypatch.setattr(build, "library_path", path)
    monkeypatch.delenv("ROUTELM_CPU_ISA", raising=False)
    return tmp_path


def compiler() -> str:
    found = shutil.which("g++")
    if found is None:
        pytest.skip("there is no compiler here")
    return found


def compile_answer(directory: Path, level: str, supported: int, built_of: str | None = None) -> None:
    """A library that says whether it can be used, which one it is, and of what; by default of what is there."""
    code, digest = directory / f"{level}.c", built_of or library.source_digest()
    code.write_text(
        f'int supported() {{ return {supported}; }} const char* name() {{ return "{level}"; }}'
        f'const char* built_of() {{ return "{digest}"; }}'
    )
    library_path = directory / f"matmul_{level}.so"
    subprocess.run([compiler(), "-x", "c", "-shared", "-fPIC", str(code), "-o", str(library_path)], check=True)


def chosen() -> bytes | None:
    found = library.load_library.__wrapped__("matmul")
    if found is None:
        return None
    found.name.restype = ctypes.c_char_p
    name: bytes = found.name()
    return name


@pytest.mark.parametrize(
    ("built", "expected"),
    [
        ({}, None),
        ({"avx2": 1}, b"avx2"),
        ({"generic": 1, "avx2": 1, "avx512": 1}, b"avx512"),
        ({"avx2": 1, "avx512": 1, "avx512bf16": 1}, b"avx512bf16"),
        ({"avx2": 1, "avx512": 1, "avx512bf16": 0}, b"avx512"),
        ({"avx512": 1, "avx512vnni": 1, "avx512bf16": 0}, b"avx512vnni"),
        ({"avx512bf16": 0, "generic": 1}, b"generic"),
        ({"avx512bf16": 0}, None),
    ],
)
def test_the_best_library_that_runs_here_is_chosen(
    built: dict[str, int], expected: bytes | None, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    for level, supported in built.items():
        compile_answer(elsewhere, level, supported)
    assert chosen() == expected


@pytest.mark.parametrize(
    ("highest", "expected"),
    [("", b"avx512"), ("avx512bf16", b"avx512"), ("avx512", b"avx512"), ("AVX2", b"avx2"), ("generic", b"generic")],
)
def test_a_lower_level_can_be_forced(
    highest: str, expected: bytes, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setenv("ROUTELM_CPU_ISA", highest)
    for level in ("avx512", "avx2", "generic"):
        compile_answer(elsewhere, level, 1)
    assert chosen() == expected


def test_a_higher_level_cannot_be_forced(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    monkeypatch.setenv("ROUTELM_CPU_ISA", "avx512")
    assert library.allowed_levels() == ("avx2", "generic")


@pytest.mark.parametrize("highest", ["", "avx2", "generic"])
@pytest.mark.parametrize("capability", ["DEFAULT", "SVE256"])
def test_other_architectures_have_one_level(capability: str, highest: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    monkeypatch.setenv("ROUTELM_CPU_ISA", highest)
    assert library.allowed_levels() == tuple(build.levels()) == ("generic",)
    assert {path.name for path in build.libraries()} == {"cpu_generic.so", "matmul_generic.so"}


def test_an_unknown_level_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUTELM_CPU_ISA", "sse9")
    with pytest.raises(ValueError, match=r"ROUTELM_CPU_ISA is 'sse9'.*avx2, generic"):
        library.allowed_levels()


def test_a_library_for_more_than_this_processor_is_not_opened(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    compile_answer(elsewhere, "avx512", 1)
    assert chosen() is None


def test_what_the_compiler_says_is_told(elsewhere: Path) -> None:
    with pytest.raises(RuntimeError, match="no-such-option"):
        build.compile_library(compiler(), "matmul", "avx2", ["--no-such-option"])
    assert list(elsewhere.glob("*.so")) == []


def test_without_a_compiler_nothing_is_built_and_nothing_fails(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert build.main([]) == 0
    assert "slower kernels" in capsys.readouterr().out
    assert list(elsewhere.iterdir()) == []


def test_a_library_of_other_sources_is_not_used(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It may take other arguments, and then computes nonsense without a word."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    compile_answer(elsewhere, "avx2", 1)
    compile_answer(elsewhere, "avx512", 1, built_of="of yesterday")
    assert chosen() == b"avx2"
    assert "matmul_avx512.so was built from other sources" in caplog.text


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
    assert {f"matmul_{level}.so" for level in build.levels()} <= names
    assert {"cpu_generic.so", "matmul_generic.so"} <= names


def test_every_level_of_this_processor_was_built() -> None:
    """Otherwise the tests of levels would have little to run on, and pass."""
    compiler()
    libraries = [(level, library.load_level("matmul", level)) for level in library.allowed_levels()]
    assert [level for level, found in libraries if found is not None], "run python -m model.kernels.build"
    assert all(library_path.exists() for library_path in build.libraries())

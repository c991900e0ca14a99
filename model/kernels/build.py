"""Compiles the CPU kernels: `python -m model.kernels.build`. Needs a C++ compiler; without one the definitions serve.

Each source is compiled once per instruction set (level), and the loader picks a level at run time: libraries built on
one machine, for instance into a container image, are safe on another.
"""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from model.kernels.library import LEVELS, library_path, source_digest

_AVX512 = ["-march=x86-64-v4", "-mprefer-vector-width=512"]

# level -> compiler flags
GENERIC: dict[str, list[str]] = {"generic": []}
X86 = {
    "avx512bf16": [*_AVX512, "-mavx512bf16", "-mavx512vnni"],
    "avx512vnni": [*_AVX512, "-mavx512vnni"],
    "avx512": _AVX512,
    "avx2": ["-march=x86-64-v3"],
    **GENERIC,
}

# source -> levels that it has code of its own for
SOURCES = {"cpu": ("avx512", "avx2", "generic"), "matmul": LEVELS}


def levels() -> dict[str, list[str]]:
    """The levels of this architecture, with their compiler flags."""
    return X86 if platform.machine() in ("x86_64", "AMD64") else GENERIC


def builds(sources: Iterable[str] = SOURCES) -> list[tuple[str, str]]:
    """Source and level of every library that a complete build leaves on this architecture."""
    return [(source, level) for source in sources for level in levels() if level in SOURCES[source]]


def libraries() -> list[Path]:
    """All libraries that a complete build leaves on this architecture."""
    return [library_path(*build) for build in builds()]


def _openmp_library() -> list[str]:
    """Linker options for torch's own OpenMP runtime: the threads of a second one would compete for the same cores."""
    found = sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))
    if not found:
        return ["-fopenmp"]
    return [str(found[0]), f"-Wl,-rpath,{found[0].parent}"]


def find_compiler() -> str | None:
    """The C++ compiler: $CXX, g++ or clang++."""
    return os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")


def compile_library(compiler: str, source: str, level: str, flags: list[str]) -> Path:
    """Build one library. Raises RuntimeError with the compiler's output if that fails."""
    output = library_path(source, level)
    partial = output.with_suffix(f".{os.getpid()}.tmp")
    code = Path(__file__).parent / source / f"{source}.cpp"
    version = f'-DBUILT_OF="{source_digest()}"'
    command = [compiler, version, "-std=c++17", "-O3", "-fPIC", "-fopenmp", "-fno-math-errno", *flags, "-c", str(code)]
    done = subprocess.run([*command, "-o", f"{partial}.o"], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        link = [compiler, "-shared", "-o", str(partial), f"{partial}.o", *_openmp_library()]
        done = subprocess.run(link, capture_output=True, text=True, check=False)
        Path(f"{partial}.o").unlink()
    if done.returncode != 0:
        raise RuntimeError(f"{compiler} could not build {output.name}:\n{done.stderr}")
    partial.replace(output)
    return output


def main(names: list[str]) -> int:
    """Build the named sources, by default all."""
    compiler = find_compiler()
    if compiler is None:
        print("No C++ compiler found: slower kernels in PyTorch will be used. Install g++ and run this command again.")
        return 0
    flags = levels()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = [
            pool.submit(compile_library, compiler, source, level, flags[level])
            for source, level in builds(names or SOURCES)
        ]
        for job in jobs:
            print(f"built {job.result().name}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

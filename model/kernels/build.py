"""Compiles the CPU kernels: `python -m model.kernels.build`. Needs a C++ compiler; without one the plain path serves.

One library per source and instruction set is written beside the source, and the loader picks by the machine it runs on,
so that a library built in one place (a container image) is safe in another.
"""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import torch

from model.kernels.library import library_path, source_digest

_AVX512 = ["-march=x86-64-v4", "-mprefer-vector-width=512"]

# instruction set -> compiler flags
X86_TARGETS = {
    "AVX512BF16": [*_AVX512, "-mavx512bf16", "-mavx512vbmi"],
    "AVX512VBMI": [*_AVX512, "-mavx512vbmi"],
    "AVX512": _AVX512,
    "AVX2": ["-march=x86-64-v3"],
}
NATIVE_TARGETS: dict[str, list[str]] = {"DEFAULT": []}

# source -> instruction sets that it has code of its own for
SOURCES = {"cpu": ("AVX512", "AVX2", "DEFAULT"), "product": ("AVX512BF16", "AVX512VBMI", "AVX512", "AVX2", "DEFAULT")}


def targets() -> dict[str, list[str]]:
    """The instruction sets to build for on this kind of processor."""
    return X86_TARGETS if platform.machine() in ("x86_64", "AMD64") else NATIVE_TARGETS


def libraries() -> list[Path]:
    """All libraries that a complete build leaves on this kind of processor."""
    return [library_path(source, target) for source in SOURCES for target in targets() if target in SOURCES[source]]


def _openmp_library() -> list[str]:
    """torch's own OpenMP runtime: a second one in the process would fight it for the cores."""
    found = sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))
    if not found:
        return ["-fopenmp"]
    return [str(found[0]), f"-Wl,-rpath,{found[0].parent}"]


def compile_target(compiler: str, source: str, target: str, flags: list[str]) -> Path:
    """Build one library; raises RuntimeError with the compiler's words when that fails."""
    output = library_path(source, target)
    partial = output.with_suffix(f".{os.getpid()}.tmp")
    code = Path(__file__).with_name(f"{source}.cpp")
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
    """Build the named sources, or all."""
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        print("No C++ compiler found: RouteLM works, on its plain and slower kernels. Install g++ and run this again.")
        return 0
    for source in names or SOURCES:
        for target, flags in targets().items():
            if target in SOURCES[source]:
                print(f"built {compile_target(compiler, source, target, flags).name}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Real weights and vocabularies, for the tests that need them; these skip where `make real-models` was not run.

Run as a program, this file fetches llama.cpp's vocabulary files, which its Python package carries, with the token ids
that are expected of them.
"""

import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import pytest

REAL_MODELS = Path(os.environ.get("ROUTELM_REAL_MODELS", Path(__file__).parents[1] / "models"))
SMOLLM2 = REAL_MODELS / "SmolLM2-135M-Instruct.Q4_1.gguf"
LLAMA_CPP = REAL_MODELS / "llama.cpp"  # its vocabularies and chat templates
PACKAGE = "llama-cpp-python==0.3.36"

needs_smollm2 = pytest.mark.skipif(not SMOLLM2.is_file(), reason="run `make real-models`")
needs_llama_cpp = pytest.mark.skipif(not LLAMA_CPP.is_dir(), reason="run `make real-models`")


def main() -> None:
    if LLAMA_CPP.is_dir():
        return
    with tempfile.TemporaryDirectory() as directory:
        options = ["--quiet", "--no-deps", "--no-binary", ":all:", "--dest", directory]
        subprocess.run([sys.executable, "-m", "pip", "download", *options, PACKAGE], check=True)
        (archive,) = Path(directory).glob("*.tar.gz")
        unpack(archive, LLAMA_CPP)


def unpack(archive: Path, to: Path) -> None:
    """Write the files of vendor/llama.cpp/models, without its folders above. `to` is there when all of them are."""
    with tarfile.open(archive) as files, tempfile.TemporaryDirectory(dir=to.parent) as unfinished:
        for member in files:
            _, found, name = member.name.partition("/vendor/llama.cpp/models/")
            # Not `extract`: before Python 3.11.4 it has no filter and writes to any path.
            path = Path(unfinished, name)
            if found and member.isfile() and path.resolve().is_relative_to(Path(unfinished).resolve()):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(files.extractfile(member).read())  # type: ignore[union-attr]  # it is a file
        Path(unfinished).rename(to)


if __name__ == "__main__":
    main()

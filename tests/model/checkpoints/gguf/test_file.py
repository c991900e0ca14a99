"""Headers of GGUF files: what is read, and that damaged and hostile ones are refused without harm."""

import random
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from model.checkpoints.gguf.file import GgufFile
from model.checkpoints.reader import CheckpointError

FUZZ_RUNS = 2_000  # or ROUTELM_FUZZ_RUNS


def string(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def tensor(name: str = "a", shape: tuple[int, ...] = (32,), kind: int = 0, offset: int = 0) -> bytes:
    dimensions = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return string(name) + dimensions + struct.pack("<IQ", kind, offset)


def entry(name: str, kind: int, value: bytes) -> bytes:
    return string(name) + struct.pack("<I", kind) + value


def header(tensors: list[bytes], entries: list[bytes] = (), version: int = 3) -> bytes:  # type: ignore[assignment]
    counts = struct.pack("<IQQ", version, len(tensors), len(entries))
    return b"GGUF" + counts + b"".join(entries) + b"".join(tensors)


def whole(tensors: list[bytes], entries: list[bytes] = (), data: int = 128) -> bytes:  # type: ignore[assignment]
    start = header(tensors, entries)
    return start + bytes(-len(start) % 32) + bytes(data)


HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "more bytes than there are"),
    "wrong magic": (b"GGML" + bytes(40), "does not begin with GGUF"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
    "first version": (header([], version=1), "version is 1"),
    "huge number of tensors": (b"GGUF" + struct.pack("<IQQ", 3, 2**62, 0), "promises 4611686018427387904 tensors"),
    "huge number of entries": (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**62), "entries of metadata"),
    "huge string": (whole([], [string("a") + struct.pack("<IQ", 8, 2**40)]), "characters"),
    "huge list of strings": (whole([], [entry("a", 9, struct.pack("<IQ", 8, 2**40))]), "strings"),
    "huge list of numbers": (whole([], [entry("a", 9, struct.pack("<IQ", 4, 2**40))]), "numbers"),
    "list of lists": (whole([], [entry("a", 9, struct.pack("<IQ", 9, 1))]), "list of the type 9"),
    "unknown kind of value": (whole([], [entry("a", 77, b"")]), "unknown type 77"),
    "an entry twice": (whole([], [entry("a", 0, b"\1")] * 2), "'a' twice"),
    "a tensor twice": (whole([tensor()] * 2), "'a' twice"),
    "a tensor without a name": (whole([tensor("")]), "a tensor is named ''"),
    "two lines in a name": (whole([tensor("a\nb")]), "a tensor is named 'a.nb'"),
    "a layer of many digits": (whole([tensor(f"blk.{'9' * 5000}.x")]), "a tensor is named 'blk.99*': 1 to 64"),
    "no axes": (whole([tensor(shape=())]), "has 0 axes"),
    "too many axes": (whole([tensor(shape=(1,) * 5)]), "has 5 axes"),
    "no size": (whole([tensor(shape=(0, 4))]), "impossible shape"),
    "half a block": (whole([tensor(shape=(33,), kind=2)]), "impossible shape"),
    "huge tensor": (whole([tensor(shape=(2**40, 2**40))]), "outside of the file"),
    "a type that is not read": (whole([tensor(kind=34)]), "TQ1_0; these are read: F32"),
    "a type that does not exist": (whole([tensor(kind=99)]), "type 99"),
    "not aligned": (whole([tensor(shape=(4,), offset=4)]), "outside of the file"),
    "overlap": (whole([tensor("a"), tensor("b", offset=96)], data=256), "tensors a and b overlap"),
    "the same place": (whole([tensor("a"), tensor("b")]), "overlap"),
    "alignment of zero": (whole([], [entry("general.alignment", 4, struct.pack("<I", 0))]), "power of two"),
    "alignment of text": (whole([], [entry("general.alignment", 8, string("x"))]), "power of two"),
    "without data": (header([tensor()]), "outside of the file"),
}  # fmt: skip


def write_small(path: Path) -> bytes:
    """A file with metadata of several kinds and two tensors."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    writer.add_array("tokenizer.ggml.tokens", ["a", "ä", ""])
    writer.add_array("tokenizer.ggml.scores", [0.5, 1.5, -2.0])
    writer.add_bool("flag", True)
    writer.add_tensor("first", np.arange(6, dtype=np.float32).reshape(2, 3))
    writer.add_tensor("second", np.arange(8, dtype=np.float16).reshape(2, 2, 2))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


def test_reads_what_the_library_writes(tmp_path: Path) -> None:
    write_small(tmp_path / "small.gguf")
    file = GgufFile(tmp_path / "small.gguf")
    assert file.metadata["llama.attention.layer_norm_rms_epsilon"] == 1e-5
    assert file.metadata["tokenizer.ggml.tokens"] == ["a", "ä", ""]
    assert file.metadata["tokenizer.ggml.scores"].tolist() == [0.5, 1.5, -2.0]
    assert file.metadata["flag"] is True
    assert torch.equal(file.read("first"), torch.arange(6.0).view(2, 3))
    assert torch.equal(file.read("second", 1), torch.arange(4, 8, dtype=torch.float16).view(2, 2))


@pytest.mark.parametrize("case", HOSTILE)
def test_a_damaged_file_is_refused_in_one_line(case: str, tmp_path: Path) -> None:
    content, message = HOSTILE[case]
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    tracemalloc.start()
    with pytest.raises(CheckpointError, match=r"model\.gguf cannot be read as GGUF: .*" + message):
        GgufFile(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    content = write_small(tmp_path / "small.gguf")
    path = tmp_path / "short.gguf"
    used = 16  # of the 32 bytes of the last tensor's place
    for length in range(len(content) - used):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError):
            GgufFile(path)


def test_a_file_that_becomes_shorter_is_noticed(tmp_path: Path) -> None:
    content = write_small(tmp_path / "small.gguf")
    file = GgufFile(tmp_path / "small.gguf")
    (tmp_path / "small.gguf").write_bytes(content[:-40])
    with pytest.raises(CheckpointError, match="has become shorter"):
        file.read("second")


def test_mutated_headers_are_read_or_refused(tmp_path: Path, fuzz_runs: Callable[[int], int]) -> None:
    content, path = write_small(tmp_path / "small.gguf"), tmp_path / "mutated.gguf"
    generator = random.Random(0)
    for _ in range(fuzz_runs(FUZZ_RUNS)):
        path.write_bytes(mutated(content, generator))
        try:
            file = GgufFile(path)
        except CheckpointError:
            continue
        assert sum(stored.size for stored in file.tensors.values()) <= len(content)


def mutated(content: bytes, generator: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(generator.randint(1, 4)):
        place = generator.randrange(len(changed))
        change = generator.random()
        if change < 0.5:
            changed[place] = generator.choice((0, 1, 127, 128, 255, generator.randrange(256)))
        elif change < 0.7:
            changed[place : place + 8] = struct.pack("<Q", generator.choice((0, 2**31, 2**32 - 1, 2**63, 2**64 - 1)))
        elif change < 0.85:
            del changed[place : place + generator.randint(1, 16)]
        else:
            changed[place:place] = generator.randbytes(generator.randint(1, 16))
    return bytes(changed)

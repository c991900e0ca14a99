"""A save that is killed at any moment leaves a whole checkpoint, the new one or the one before."""

import os
import shutil
from pathlib import Path

import pytest
import torch

from model.checkpoints.safetensors_files import save_tensors
from model.training.loop.checkpoints import SaveClock, read_checkpoint, write_checkpoint


class KilledError(Exception):
    """Stands for the end of the process."""


def write(run_dir: Path, number: int) -> None:
    write_checkpoint(run_dir, {"weight": torch.full((3,), float(number))}, {"step": number})


def read(run_dir: Path) -> int | None:
    checkpoint = read_checkpoint(run_dir)
    if checkpoint is None:
        return None
    assert checkpoint.tensors["weight"].tolist() == [checkpoint.state["step"]] * 3
    return int(checkpoint.state["step"])


def test_a_checkpoint_reads_back_and_the_next_replaces_it(tmp_path: Path) -> None:
    assert read(tmp_path) is None
    for number in (1, 2, 3):
        write(tmp_path, number)
        assert read(tmp_path) == number
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def killed_after(calls: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Make the file operations of a save raise from number `calls` on; returns the list of those that were done."""
    done: list[str] = []

    def dying(name: str, operation):  # type: ignore[no-untyped-def]
        def wrapped(*args, **options):  # type: ignore[no-untyped-def]
            if len(done) == calls:
                raise KilledError
            done.append(name)
            return operation(*args, **options)

        return wrapped

    for name in ("mkdir", "write_text", "rename"):
        monkeypatch.setattr(Path, name, dying(name, getattr(Path, name)))
    monkeypatch.setattr("model.training.loop.checkpoints.save_tensors", dying("save_tensors", save_tensors))
    monkeypatch.setattr(shutil, "rmtree", dying("rmtree", shutil.rmtree))
    return done


@pytest.mark.parametrize("calls", range(9))
def test_a_save_killed_between_any_two_operations(tmp_path: Path, calls: int) -> None:
    write(tmp_path, 1)
    with pytest.MonkeyPatch.context() as patch:
        done = killed_after(calls, patch)
        if calls < 8:
            with pytest.raises(KilledError):
                write(tmp_path, 2)
        else:
            write(tmp_path, 2)
    renamed = done.count("rename")
    assert read(tmp_path) == (1 if renamed == 0 else 2)
    write(tmp_path, 3)
    assert read(tmp_path) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_a_power_cut_leaves_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written is on the disk before it gets its name, and the name before the old one is deleted."""
    write(tmp_path, 1)
    done: list[str] = []
    fsync, rename, rmtree = os.fsync, Path.rename, shutil.rmtree

    def of_descriptor(descriptor: int) -> None:
        done.append(f"flush {Path(f'/proc/self/fd/{descriptor}').resolve().relative_to(tmp_path.resolve())}")
        fsync(descriptor)

    def of_path(path: Path, target: Path) -> Path:
        done.append(f"rename {path.name}")
        return rename(path, target)

    def of_tree(path: Path, ignore_errors: bool = False) -> None:
        done.append(f"delete {path.name}")
        rmtree(path, ignore_errors=ignore_errors)

    monkeypatch.setattr(os, "fsync", of_descriptor)
    monkeypatch.setattr(Path, "rename", of_path)
    monkeypatch.setattr(shutil, "rmtree", of_tree)
    write(tmp_path, 2)
    partial, named = done.index("rename checkpoint.tmp"), done.index("flush .")
    new = {"flush checkpoint.tmp", "flush checkpoint.tmp/state.json", "flush checkpoint.tmp/state.safetensors"}
    assert new <= set(done[: done.index("rename checkpoint")])
    assert partial < named < len(done) - 1
    assert done[-1] == "delete checkpoint.old"


def test_a_partial_save_beside_a_whole_one_is_not_read(tmp_path: Path) -> None:
    write(tmp_path, 1)
    (tmp_path / "checkpoint.tmp").mkdir()
    (tmp_path / "checkpoint.tmp" / "state.json").write_text("{")
    assert read(tmp_path) == 1


def test_reading_changes_nothing(tmp_path: Path) -> None:
    write(tmp_path, 1)
    (tmp_path / "checkpoint").rename(tmp_path / "checkpoint.old")
    write(tmp_path / "elsewhere", 2)
    (tmp_path / "elsewhere" / "checkpoint").rename(tmp_path / "checkpoint.tmp")
    assert read(tmp_path) == 2
    assert (tmp_path / "checkpoint.tmp").is_dir()
    assert not (tmp_path / "checkpoint").exists()


def test_saves_are_due_once_in_so_many_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("model.training.loop.checkpoints.monotonic", lambda: now)
    clock = SaveClock(10.0)
    due = []
    for now in (100.0, 109.0, 111.0, 112.0, 120.0, 122.0):  # noqa: B007
        due.append(clock.is_due())
    assert due == [False, False, True, False, False, True]

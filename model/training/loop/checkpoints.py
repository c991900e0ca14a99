"""The checkpoint of a run on disk: tensors and a state in JSON. A kill or a power cut in a save leaves a complete one.

<run_dir>/checkpoint/state.safetensors, state.json
         /checkpoint.tmp                     a save that is under way
         /checkpoint.old                     the one before, for the moment between two renames
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from model.checkpoints.safetensors_files import save_tensors
from model.files import flush_to_disk


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """Everything a run resumes from: tensors by name, and plain JSON values."""

    tensors: dict[str, Tensor]
    state: dict[str, Any]


class SaveClock:
    """Decides when to save: once every `seconds`."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._last = seconds, monotonic()

    def is_due(self) -> bool:
        """Whether a save is due; if so, the interval restarts."""
        if monotonic() - self._last <= self._seconds:
            return False
        self._last = monotonic()
        return True


def write_checkpoint(run_dir: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Replace the run's checkpoint. The directory under its name is complete at every moment."""
    partial, final, old = _places(run_dir)
    if _is_between_renames(run_dir):
        partial.rename(final)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_tensors(tensors, partial / "state.safetensors")
    (partial / "state.json").write_text(json.dumps(state), encoding="utf-8")
    flush_to_disk(partial)
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        final.rename(old)
    partial.rename(final)
    flush_to_disk(run_dir)
    shutil.rmtree(old, ignore_errors=True)


def read_checkpoint(run_dir: Path, device: str = "cpu") -> Checkpoint | None:
    """Return the last checkpoint of a run, or None. Read-only: the run may be active."""
    partial, final, _ = _places(run_dir)
    directory = partial if _is_between_renames(run_dir) else final
    if not directory.is_dir():
        return None
    state = json.loads((directory / "state.json").read_text(encoding="utf-8"))
    return Checkpoint(load_file(directory / "state.safetensors", device=device), state)


def _is_between_renames(run_dir: Path) -> bool:
    """Whether a save was killed after the old checkpoint was moved: then the partial one is complete."""
    _, final, old = _places(run_dir)
    return old.is_dir() and not final.is_dir()


def _places(run_dir: Path) -> tuple[Path, Path, Path]:
    return run_dir / "checkpoint.tmp", run_dir / "checkpoint", run_dir / "checkpoint.old"

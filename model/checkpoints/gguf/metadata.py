"""The metadata of a GGUF file, checked as it is read."""

from math import isfinite
from typing import Any

import numpy as np

from model.checkpoints.gguf.file import GgufFile, StoredTensor
from model.checkpoints.reader import CheckpointError


class Metadata:
    """The metadata of an architecture without its prefix, and the tensors of all files of a model."""

    def __init__(self, files: tuple[GgufFile, ...]) -> None:
        self._all = files[0].metadata
        self.architecture = str(self._all.get("general.architecture"))
        self.tensors: dict[str, StoredTensor] = {name: t for file in files for name, t in file.tensors.items()}
        self._files = files

    def get(self, key: str, default: Any = None) -> Any:
        value = self._all.get(f"{self.architecture}.{key}", default)
        return value.tolist() if isinstance(value, np.ndarray) else value

    def __getitem__(self, key: str) -> Any:
        value = self.get(key)
        if value is None:
            raise CheckpointError(f"{self.name} has no {self.architecture}.{key} in its metadata")
        return value

    def number(self, key: str, default: int | None = None) -> int:
        """A whole number; of a list with one for every layer, the largest."""
        value = self.get(key, default) if default is not None else self[key]
        value = max(value, default=0) if isinstance(value, list) else value
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise CheckpointError(f"{self.name} has {self.architecture}.{key} {value!r}: a whole number is expected")
        return value

    def real(self, key: str, default: float | None = None) -> float:
        value = self.get(key, default) if default is not None else self[key]
        if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
            raise CheckpointError(f"{self.name} has {self.architecture}.{key} {value!r}: a finite number is expected")
        return value

    @property
    def layers(self) -> int:
        """The number of layers, those for multi-token prediction included. No more than there are tensors."""
        count = self.number("block_count")
        if not 0 < count <= len(self.tensors):
            raise CheckpointError(f"{self.name} has {len(self.tensors)} tensors for {count} layers")
        return count

    @property
    def experts(self) -> int:
        """The number of experts of a layer, which is that of the stored ones."""
        count = self.number("expert_count")
        stored = next((t.shape[0] for name, t in self.tensors.items() if name.endswith("_exps.weight")), 0)
        if count != stored:
            raise CheckpointError(f"{self.name} holds {stored} experts, but its metadata says {count}")
        return count

    @property
    def name(self) -> str:
        return self._files[0].path.name

    def rows(self, name: str) -> int:
        """The number of rows of a matrix, of a stack of matrices those of each."""
        if name not in self.tensors:
            raise CheckpointError(f"{self.name} has no tensor {name}")
        return self.tensors[name].shape[-2] if len(self.tensors[name].shape) > 1 else 1

    def first_layer_with(self, part: str) -> int:
        """The first layer that has this tensor."""
        found = [layer for layer in range(self.layers) if f"blk.{layer}.{part}" in self.tensors]
        if not found:
            raise CheckpointError(f"{self.name} has no layer with {part}")
        return found[0]

    def read(self, name: str) -> list[float]:
        """The numbers of a small tensor."""
        file = next(file for file in self._files if name in file.tensors)
        numbers: list[float] = file.read(name).float().flatten().tolist()
        return numbers

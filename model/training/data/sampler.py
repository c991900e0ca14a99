"""Which example comes next: sources by their shares of the tokens, each read in epochs."""

import heapq
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.training.data.mixture import Mixture
from model.training.data.prepare import load_source, source_names


class ExampleSampler:
    """An endless sequence of examples: the same seed gives the same ones, and it resumes exactly.

    The next example is drawn from the source that is furthest behind its share of the tokens. A source is read in
    epochs, shuffled anew for each one, so that every example is drawn once per epoch.
    """

    def __init__(self, prepared_dir: Path, mixture: Mixture, seed: int) -> None:
        sources = [load_source(prepared_dir, name, "train") for name in source_names(prepared_dir, "train")]
        self._shares = mixture.source_shares({source.name: len(source.tokens) for source in sources})
        self.sources = {source.name: source for source in sources if self._shares.get(source.name, 0) > 0}
        self._readers = {name: _EpochReader(name, len(source), seed) for name, source in self.sources.items()}
        self._sizes = {name: np.diff(source.offsets) for name, source in self.sources.items()}
        self._start(dict.fromkeys(self.sources, 0))

    def draw(self) -> tuple[str, int, int]:
        """The source of the next example, its index there, and its number of tokens."""
        _, order, name = self._behind[0]
        index = self._readers[name].next_index()
        size = int(self._sizes[name][index])
        self.tokens_drawn[name] += size
        heapq.heapreplace(self._behind, (self._progress(name), order, name))
        return name, index, size

    @property
    def epochs(self) -> dict[str, float]:
        """Epochs of each source so far, with fractions."""
        return {name: reader.epochs for name, reader in self._readers.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the state that later examples depend on, as JSON values."""
        drawn = {name: reader.drawn for name, reader in self._readers.items()}
        return {"drawn": drawn, "tokens_drawn": dict(self.tokens_drawn)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken. ValueError if it belongs to other sources."""
        if set(state["drawn"]) != set(self.sources):
            raise ValueError(f"state of sources {sorted(state['drawn'])} does not fit {sorted(self.sources)}")
        for name, reader in self._readers.items():
            reader.drawn = state["drawn"][name]
        self._start(dict(state["tokens_drawn"]))

    def _start(self, tokens_drawn: dict[str, int]) -> None:
        self.tokens_drawn = tokens_drawn
        self._behind = [(self._progress(name), order, name) for order, name in enumerate(self.sources)]
        heapq.heapify(self._behind)  # the source that is furthest behind comes first

    def _progress(self, name: str) -> float:
        return self.tokens_drawn[name] / self._shares[name]


class _EpochReader:
    """The order in which one source is read. `drawn` counts the examples drawn in all epochs."""

    def __init__(self, name: str, size: int, seed: int) -> None:
        self._key, self._size = [seed, *name.encode()], size
        self._epoch, self._order = -1, np.empty(0, np.int64)
        self.drawn = 0

    @property
    def epochs(self) -> float:
        return self.drawn / self._size

    def next_index(self) -> int:
        epoch, position = divmod(self.drawn, self._size)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._permutation(epoch)
        self.drawn += 1
        return int(self._order[position])

    def _permutation(self, epoch: int) -> NDArray[np.int64]:
        return np.random.default_rng([epoch, *self._key]).permutation(self._size)

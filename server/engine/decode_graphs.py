"""Steps in which every sequence gets one more token, repeated from a recording where they can be.

Such a step differs from the last one of as many sequences in its inputs alone. So its compiled calls are recorded once,
over inputs that stay in place, and made again without the Python and PyTorch between them, which for a small model take
longer than the calls. What is computed is the same to the last bit: they are the same calls.

Shapes: S sequences, V vocabulary.
"""

import logging
import math
from dataclasses import replace

from torch import Tensor

from model.batch import ForwardBatch
from model.kernels.recording import Recording, recorded
from model.layers.router import Routing
from model.network import CausalLM

logger = logging.getLogger(__name__)

MOST_BYTES = 64 << 20  # of what all recordings keep
Scored = tuple[Tensor, tuple[Routing | None, ...]]  # scores [S, V] and each layer's routing


class DecodeGraphs:
    """Computes decode steps of one network, and keeps recordings of those that came twice in a row.

    `table_width` is the most blocks that a sequence can have. Nothing is recorded for a network in which PyTorch
    computes something itself: its operations would not be repeated.
    """

    def __init__(self, network: CausalLM, table_width: int, *, most_bytes: int = MOST_BYTES) -> None:
        self._network, self._table_width, self._most_bytes = network, table_width, most_bytes
        self._recorded: dict[int, _DecodeGraph] = {}  # by number of sequences, the one used last at the end
        self._most_sequences = math.inf  # of which a recording is small enough to keep; none can be kept: 0
        self._last = 0

    def run(self, batch: ForwardBatch) -> Scored:
        """The scores of every sequence's next token. They are overwritten by a later step."""
        count, last = len(batch.token_ids_T), self._last
        self._last = count
        if count in self._recorded:
            step = self._recorded[count] = self._recorded.pop(count)
            return step.repeat(batch)
        if count != last or count > self._most_sequences:
            return _computed(self._network, batch)
        return self._record(count, batch)

    def recording(self, count: int) -> Recording | None:
        """The recording of steps of that many sequences, if there is one."""
        return self._recorded[count].recording if count in self._recorded else None

    def _record(self, count: int, batch: ForwardBatch) -> Scored:
        step = _DecodeGraph(self._network, batch, self._table_width)
        if not step.recording.is_whole:
            self._most_sequences = 0
            logger.info("decode steps are not recorded: PyTorch computes %s", ", ".join(sorted(step.recording.foreign)))
        elif step.recording.nbytes > self._most_bytes:
            self._most_sequences = count - 1
        else:
            self._recorded[count] = step
            self._forget_oldest()
        return step.scored()

    def _forget_oldest(self) -> None:
        while sum(step.recording.nbytes for step in self._recorded.values()) > self._most_bytes:
            del self._recorded[next(iter(self._recorded))]


class _DecodeGraph:
    """One step over inputs of its own; making it records it."""

    def __init__(self, network: CausalLM, batch: ForwardBatch, table_width: int) -> None:
        table_SB = batch.block_table_SB.new_zeros(len(batch.block_table_SB), table_width)
        own = {name: getattr(batch, name).clone() for name in _INPUTS}
        self._batch = replace(batch, **own, block_table_SB=table_SB, tables={})
        self._write(batch)
        with recorded() as self.recording:
            self._scored = _computed(network, self._batch)

    def repeat(self, batch: ForwardBatch) -> Scored:
        """The same step over other inputs."""
        self._write(batch)
        self.recording.repeat()
        return self.scored()

    def scored(self) -> Scored:
        """What the step gave last. Routings are copies: the engine counts them some steps later."""
        scores_SV, routings = self._scored
        return scores_SV, tuple(routing and _copy(routing) for routing in routings)

    def _write(self, batch: ForwardBatch) -> None:
        for name in _INPUTS:
            getattr(self._batch, name).copy_(getattr(batch, name))
        self._batch.block_table_SB[:, : batch.block_table_SB.shape[1]].copy_(batch.block_table_SB)


_INPUTS = ("token_ids_T", "positions_T", "query_starts_S1", "state_rows_S")


def _computed(network: CausalLM, batch: ForwardBatch) -> Scored:
    hidden_SD, routings = network(batch)
    return network.logits(hidden_SD), routings


def _copy(routing: Routing) -> Routing:
    return Routing(routing.weights_TK.clone(), routing.experts_TK.clone(), routing.router_logits_TE.clone())

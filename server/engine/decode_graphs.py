"""Decode steps, replayed from a captured graph where possible.

Two steps in which every sequence gets one more token differ in their inputs alone, if they have as many sequences. So
the compiled calls of such a step are captured once, over inputs at fixed addresses, and replayed without the Python and
PyTorch code between them, which for a small model takes longer than the calls. The replayed calls are the same calls,
so every bit of the result is the same.

Shapes: S sequences, V vocabulary.
"""

import logging
import math
from dataclasses import replace

from torch import Tensor

from model.batch import ForwardBatch
from model.kernels.kernel_graph import KernelGraph, capture
from model.layers.router import Routing
from model.network import CausalLM

logger = logging.getLogger(__name__)

MAX_BYTES = 64 << 20  # of memory that all graphs together may keep
StepOutput = tuple[Tensor, tuple[Routing | None, ...]]  # logits [S, V] and each layer's routing


class DecodeGraphs:
    """Computes decode steps of one network, and captures those whose number of sequences comes twice in a row.

    `table_width` is the largest number of blocks per sequence. Nothing is captured for a network in which PyTorch
    computes something itself, because only compiled calls can be replayed.
    """

    def __init__(self, network: CausalLM, table_width: int, *, max_bytes: int = MAX_BYTES) -> None:
        self._network, self._table_width, self._max_bytes = network, table_width, max_bytes
        self._captured: dict[int, _CapturedStep] = {}  # by number of sequences, the last used one at the end
        self._max_sequences = math.inf  # with more, a graph is too large to keep; 0: nothing can be captured
        self._last = 0

    def run(self, batch: ForwardBatch) -> StepOutput:
        """The logits of every sequence's next token. A later step overwrites them."""
        # a graph has the router's own number of experts, and no adapters
        if batch.num_experts_per_token is not None or batch.adapters_T is not None:
            return _compute(self._network, batch)
        count, last = len(batch.token_ids_T), self._last
        self._last = count
        if count in self._captured:
            step = self._captured[count] = self._captured.pop(count)
            return step.replay(batch)
        if count != last or count > self._max_sequences:
            return _compute(self._network, batch)
        return self._capture(count, batch)

    def graph(self, count: int) -> KernelGraph | None:
        """The graph of steps with that many sequences, if there is one."""
        return self._captured[count].graph if count in self._captured else None

    def clear(self) -> None:
        """Forget all graphs; steps are captured again when they come again."""
        self._captured.clear()

    def _capture(self, count: int, batch: ForwardBatch) -> StepOutput:
        step = _CapturedStep(self._network, batch, self._table_width)
        if not step.graph.is_complete:
            self._max_sequences = 0
            logger.info("decode steps are not captured: PyTorch computes %s", ", ".join(sorted(step.graph.uncaptured)))
        elif step.graph.nbytes > self._max_bytes:
            self._max_sequences = count - 1
        else:
            self._captured[count] = step
            self._evict()
        return step.output()

    def _evict(self) -> None:
        while sum(step.graph.nbytes for step in self._captured.values()) > self._max_bytes:
            del self._captured[next(iter(self._captured))]


class _CapturedStep:
    """One step with inputs of its own; it is captured when it is made."""

    def __init__(self, network: CausalLM, batch: ForwardBatch, table_width: int) -> None:
        table_SB = batch.block_table_SB.new_zeros(len(batch.block_table_SB), table_width)
        own = {name: getattr(batch, name).clone() for name in _INPUTS}
        self._batch = replace(batch, **own, block_table_SB=table_SB, tables={})
        self._write(batch)
        with capture() as self.graph:
            self._output = _compute(network, self._batch)

    def replay(self, batch: ForwardBatch) -> StepOutput:
        """The same step with other inputs."""
        self._write(batch)
        self.graph.replay()
        return self.output()

    def output(self) -> StepOutput:
        """The output of the last run. Routings are copied, because the engine counts them some steps later."""
        logits_SV, routings = self._output
        return logits_SV, tuple(routing and _copy(routing) for routing in routings)

    def _write(self, batch: ForwardBatch) -> None:
        for name in _INPUTS:
            getattr(self._batch, name).copy_(getattr(batch, name))
        self._batch.block_table_SB[:, : batch.block_table_SB.shape[1]].copy_(batch.block_table_SB)


_INPUTS = ("token_ids_T", "positions_T", "query_starts_S1", "state_rows_S")


def _compute(network: CausalLM, batch: ForwardBatch) -> StepOutput:
    hidden_SD, routings = network(batch)
    return network.logits(hidden_SD), routings


def _copy(routing: Routing) -> Routing:
    return Routing(routing.weights_TK.clone(), routing.experts_TK.clone(), routing.router_logits_TE.clone())

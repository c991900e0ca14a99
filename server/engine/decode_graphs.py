"""Decode steps, replayed from a captured graph where possible.

Two steps in which every sequence gets one more token differ in their inputs alone, if they have as many sequences and
as many experts per token. So the compiled calls of such a step are captured once, over inputs at fixed addresses, and
replayed without the Python and PyTorch code between them, which for a small model takes longer than the calls. The
replayed calls are the same calls, so every bit of the result is the same.

Shapes: S sequences, V vocabulary.
"""

import logging
import math
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from torch import Tensor

from model.batch import ForwardBatch
from model.kernels.kernel_graph import KernelGraph, capture
from model.layers.router import Routing
from model.network import CausalLM
from server.engine.routing.step_routing import StepRouting

logger = logging.getLogger(__name__)

MAX_BYTES = 64 << 20  # of memory that all graphs together may keep
StepOutput = tuple[Tensor, StepRouting | None]  # logits [S, V], and the routing if there are experts


class StepShape(NamedTuple):
    """What two steps must have in common. `experts_per_token` None: the model's own number."""

    sequences: int
    experts_per_token: int | None = None


class DecodeGraphs:
    """Computes decode steps of one network, and captures those whose shape comes a second time.

    Once the memory for graphs was too small, it has to come twice in a row: with many shapes in turn, each would be
    evicted before it comes again. Nothing is captured for a network in which PyTorch computes something itself, because
    only compiled calls can be replayed. `table_width` is the largest number of blocks per sequence.
    """

    def __init__(self, network: CausalLM, table_width: int, *, max_bytes: int = MAX_BYTES) -> None:
        self._network, self._table_width, self._max_bytes = network, table_width, max_bytes
        self._captured: dict[StepShape, _CapturedStep] = {}  # the last used one at the end
        self._max_sequences = math.inf  # with more, a graph is too large to keep; 0: nothing can be captured
        self._seen: set[StepShape] = set()
        self._last: StepShape | None = None
        self._is_memory_short = False

    def run(self, batch: ForwardBatch, before_kernels: Callable[[], None]) -> StepOutput:
        """The logits of every sequence's next token. A later step overwrites all of them.

        `before_kernels` is called once, right before the compiled code runs.
        """
        experts = batch.num_experts_per_token
        if batch.masks or batch.experts_by_layer or batch.adapters_T is not None or isinstance(experts, Tensor):
            return self._compute(batch, before_kernels)  # PyTorch computes some of it
        shape, last = StepShape(len(batch.token_ids_T), experts), self._last
        self._last = shape
        if shape in self._captured:
            step = self._captured[shape] = self._captured.pop(shape)
            return step.replay(batch, before_kernels)
        comes_again = shape == last if self._is_memory_short else shape in self._seen
        self._seen.add(shape)
        if not comes_again or shape.sequences > self._max_sequences:
            return self._compute(batch, before_kernels)
        before_kernels()
        return self._capture(shape, batch)

    def graph(self, count: int) -> KernelGraph | None:
        """The graph of steps with that many sequences and the model's number of experts, if there is one."""
        step = self._captured.get(StepShape(count))
        return None if step is None else step.graph

    def clear(self) -> None:
        """Forget all graphs; the next step of a shape is captured again."""
        self._captured.clear()

    def _compute(self, batch: ForwardBatch, before_kernels: Callable[[], None]) -> StepOutput:
        before_kernels()
        return _output(*_compute(self._network, batch))

    def _capture(self, shape: StepShape, batch: ForwardBatch) -> StepOutput:
        step = _CapturedStep(self._network, batch, self._table_width)
        if not step.graph.is_complete:
            self._max_sequences = 0
            logger.info("decode steps are not captured: PyTorch computes %s", ", ".join(sorted(step.graph.uncaptured)))
        elif step.graph.nbytes > self._max_bytes:
            self._max_sequences = shape.sequences - 1
        else:
            self._captured[shape] = step
            self._evict()
        return step.output()

    def _evict(self) -> None:
        while sum(step.graph.nbytes for step in self._captured.values()) > self._max_bytes:
            del self._captured[next(iter(self._captured))]
            self._is_memory_short = True


class _CapturedStep:
    """One step with inputs of its own; it is captured when it is made."""

    def __init__(self, network: CausalLM, batch: ForwardBatch, table_width: int) -> None:
        table_SB = batch.block_table_SB.new_zeros(len(batch.block_table_SB), table_width)
        own = {name: getattr(batch, name).clone() for name in _INPUTS}
        self._batch = replace(batch, **own, block_table_SB=table_SB, tables={})
        self._write(batch)
        with capture() as self.graph:
            self._logits_SV, self._routings = _compute(network, self._batch)
        self._stacked = _stacked_by(self.graph, self._routings)

    def replay(self, batch: ForwardBatch, before_kernels: Callable[[], None]) -> StepOutput:
        """The same step with other inputs."""
        self._write(batch)
        before_kernels()
        self.graph.replay()
        return self.output()

    def output(self) -> StepOutput:
        """The output of the last run. Its routing is a copy, because the engine counts it some steps later."""
        if self._stacked is None:
            return _output(self._logits_SV, self._routings)
        return self._logits_SV, self._stacked.clone()

    def _write(self, batch: ForwardBatch) -> None:
        for name in _INPUTS:
            getattr(self._batch, name).copy_(getattr(batch, name))
        self._batch.block_table_SB[:, : batch.block_table_SB.shape[1]].copy_(batch.block_table_SB)


_INPUTS = ("token_ids_T", "positions_T", "query_starts_S1", "state_rows_S")


def _compute(network: CausalLM, batch: ForwardBatch) -> tuple[Tensor, tuple[Routing | None, ...]]:
    hidden_SD, routings = network(batch)
    return network.logits(hidden_SD), routings


def _output(logits_SV: Tensor, routings: tuple[Routing | None, ...]) -> StepOutput:
    return logits_SV, StepRouting.stack(routings)


def _stacked_by(graph: KernelGraph, routings: tuple[Routing | None, ...]) -> StepRouting | None:
    """The routing of all layers as one, which the graph copies from now on: for many layers that is much faster.

    None if there is none, if layers differ in their numbers of choices or experts, if numbers of a row are apart, or
    if the graph is not complete.
    """
    layers = [(r.weights_TK, r.experts_TK, r.router_logits_TE) for r in routings if r is not None]
    alike = len({tuple(tensor.shape for tensor in layer) for layer in layers}) == 1
    if not alike or not graph.is_complete or any(tensor.stride(1) != 1 for layer in layers for tensor in layer):
        return None
    stacked = StepRouting.stack(routings)
    assert stacked is not None
    for number, layer in enumerate(layers):
        whole = stacked.weights_LTK, stacked.experts_LTK, stacked.router_logits_LTE
        for source, target in zip(layer, whole, strict=True):
            graph.add_copy(source, target[number])
    return stacked

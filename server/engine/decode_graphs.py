"""Decode steps, in which every sequence gets one more token, replayed from captured graphs.

Two decode steps of the same number of sequences differ only in their inputs. So the kernel calls of a step are captured
once, over inputs at fixed addresses, and replayed without the Python and PyTorch between them, which take longer than
the calls of a small model. A replay makes the same calls, so its results are the same to the last bit.

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

MAX_BYTES = 64 << 20  # of the memory that all graphs keep
LogitsAndRoutings = tuple[Tensor, tuple[Routing | None, ...]]  # logits [S, V] and the routing of each layer


class DecodeGraphs:
    """Computes the decode steps of a network, with a graph for each number of sequences that came twice in a row.

    `table_width` is the maximum number of blocks of a sequence. Nothing is captured for a network in which PyTorch
    computes something itself, because a graph contains kernel calls only.
    """

    def __init__(self, network: CausalLM, table_width: int, *, max_bytes: int = MAX_BYTES) -> None:
        self._network, self._table_width, self._max_bytes = network, table_width, max_bytes
        self._graphs: dict[int, DecodeGraph] = {}  # by number of sequences, least recently used first
        self._max_sequences = math.inf  # steps of more sequences are not captured
        self._last_count = 0

    def run(self, batch: ForwardBatch) -> LogitsAndRoutings:
        """The logits of every sequence's next token. A later step overwrites them."""
        count, last_count = len(batch.token_ids_T), self._last_count
        self._last_count = count
        if count in self._graphs:
            graph = self._graphs[count] = self._graphs.pop(count)
            return graph.replay(batch)
        if count != last_count or count > self._max_sequences:
            return _forward(self._network, batch)
        return self._capture(count, batch)

    def graph(self, count: int) -> KernelGraph | None:
        """The kernel calls of steps of that many sequences, if they were captured."""
        return self._graphs[count].kernels if count in self._graphs else None

    def _capture(self, count: int, batch: ForwardBatch) -> LogitsAndRoutings:
        graph = DecodeGraph(self._network, batch, self._table_width)
        if not graph.kernels.is_complete:
            self._max_sequences = 0
            uncaptured = ", ".join(sorted(graph.kernels.uncaptured))
            logger.info("decode steps are not captured as graphs: PyTorch computes %s", uncaptured)
        elif graph.kernels.nbytes > self._max_bytes:
            self._max_sequences = count - 1
        else:
            self._graphs[count] = graph
            self._evict()
        return graph.outputs()

    def _evict(self) -> None:
        while sum(graph.kernels.nbytes for graph in self._graphs.values()) > self._max_bytes:
            del self._graphs[next(iter(self._graphs))]


class DecodeGraph:
    """A decode step over its own copy of the inputs. Creating it computes the step and captures its kernel calls."""

    def __init__(self, network: CausalLM, batch: ForwardBatch, table_width: int) -> None:
        table_SB = batch.block_table_SB.new_zeros(len(batch.block_table_SB), table_width)
        own = {name: getattr(batch, name).clone() for name in _INPUTS}
        self._batch = replace(batch, **own, block_table_SB=table_SB, tables={})
        self._copy_inputs(batch)
        with capture() as self.kernels:
            self._outputs = _forward(network, self._batch)

    def replay(self, batch: ForwardBatch) -> LogitsAndRoutings:
        """The step with other inputs."""
        self._copy_inputs(batch)
        self.kernels.replay()
        return self.outputs()

    def outputs(self) -> LogitsAndRoutings:
        """Results of the last run. Routings are copied, because the engine counts them some steps later."""
        logits_SV, routings = self._outputs
        return logits_SV, tuple(routing and _copy(routing) for routing in routings)

    def _copy_inputs(self, batch: ForwardBatch) -> None:
        for name in _INPUTS:
            getattr(self._batch, name).copy_(getattr(batch, name))
        self._batch.block_table_SB[:, : batch.block_table_SB.shape[1]].copy_(batch.block_table_SB)


_INPUTS = ("token_ids_T", "positions_T", "query_starts_S1", "state_rows_S")


def _forward(network: CausalLM, batch: ForwardBatch) -> LogitsAndRoutings:
    hidden_SD, routings = network(batch)
    return network.logits(hidden_SD), routings


def _copy(routing: Routing) -> Routing:
    return Routing(routing.weights_TK.clone(), routing.experts_TK.clone(), routing.router_logits_TE.clone())

"""Runs the network on a scheduled step: cache copies, inputs from the sequences, logits where they are needed.

Shapes: T tokens of the step, R of them that the network gives outputs for, S sequences, N of them whose next token is
sampled, B blocks a sequence, D hidden width, V vocabulary.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import ArrayLike, DTypeLike
from torch import Tensor

from model.batch import ForwardBatch
from model.cache import CacheStorage
from model.layers.lora.linear import NO_ADAPTER
from model.network import CausalLM
from server.engine.cache.layout import CacheLayout
from server.engine.cache.prefix_cache import CacheOp, CopyRow, ZeroRow
from server.engine.decode_graphs import DecodeGraphs
from server.engine.routing.expert_load import ExpertLoadRecorder, TokenGroup
from server.engine.routing.expert_selection import experts_by_layer, masks_of
from server.engine.routing.step_routing import StepRouting
from server.engine.routing.token_routing import routing_by_request
from server.engine.sampler import token_logprobs
from server.engine.sequence import Sequence
from server.engine.step import ModelOutput, ScheduledBatch
from server.engine.types import TokenLogprobs

SCORED_AT_ONCE = 128  # prompt positions whose logits are in memory at the same time


class ModelRunner:
    """Runs the network on scheduled batches, with its own cache storage."""

    def __init__(
        self, network: CausalLM, layout: CacheLayout, *, max_model_len: int, device: torch.device | str = "cpu"
    ) -> None:
        self.expert_load = ExpertLoadRecorder(network.num_experts)
        self.network = network
        self._device = device
        self._cache = CacheStorage(
            network.cache_specs(),
            num_blocks=layout.total_blocks,
            block_size=layout.block_size,
            num_rows=layout.total_rows,
            dtype=network.dtype,
            device=device,
        )
        width = -(-max_model_len // layout.block_size) if layout.has_kv else 0
        self.decode_graphs = DecodeGraphs(network, width)
        self._block_tables = np.zeros((layout.num_slots, width), np.int32)
        self._written = [(-1, 0, 0)] * layout.num_slots  # (sequence, its preemptions, blocks) of each block table

    @torch.inference_mode()
    def execute(self, batch: ScheduledBatch, before_kernels: Callable[[], None]) -> ModelOutput:
        """Compute a step. Raises whatever the network raises; then the batch's sequences cannot go on.

        `before_kernels` is called once the inputs are there.
        """
        for op in batch.cache_ops:
            self._apply(op)
        inputs = self._inputs(batch.sequences)
        if all(_is_single_decode(sequence) for sequence in batch.sequences):
            logits_SV, routing = self.decode_graphs.run(inputs, before_kernels)
            self.expert_load.observe(routing, _token_groups(batch.sequences))
            return ModelOutput(
                logits_SV,
                routing=routing_by_request(batch.sequences, routing),
                rows=[row for row, sequence in enumerate(batch.sequences) if sequence.samples],
            )
        before_kernels()
        hidden_RD, routings = self.network(replace(inputs, output_rows_R=self._output_rows(batch.sequences)))
        routing = StepRouting.stack(routings)
        self.expert_load.observe(routing, _token_groups(batch.sequences))
        prompt_logprobs = self._prompt_logprobs(batch.sequences, hidden_RD)
        embeddings = _embeddings(batch.sequences, hidden_RD)
        return ModelOutput(
            self._logits(batch.sequences, hidden_RD),
            {name: found for name, found in prompt_logprobs.items() if found is not None},
            {name: found for name, found in embeddings.items() if found is not None},
            frozenset(name for results in (prompt_logprobs, embeddings) for name in results if results[name] is None),
            routing_by_request(batch.sequences, routing),
        )

    def _output_rows(self, sequences: list[Sequence]) -> Tensor | None:
        """The tokens of the step that the network gives outputs for; None: all."""
        rows: list[int] = []
        end = 0
        for sequence in sequences:
            end += sequence.num_scheduled_tokens
            rows += range(end - _num_outputs(sequence), end)
        if len(rows) == end:
            return None
        return self._tensor(rows or [end - 1], np.int64)  # nobody reads it, but no GPU was tried without rows

    def _logits(self, sequences: list[Sequence], hidden_RD: Tensor) -> Tensor:
        """Logits of the sequences that sample: [N, V]."""
        rows = [own.stop - 1 for sequence, own in _outputs(sequences) if sequence.samples]
        if not rows:
            return hidden_RD.new_empty(0, self.network.config.vocab_size)
        return self.network.logits(hidden_RD if len(rows) == len(hidden_RD) else hidden_RD[rows])

    def _apply(self, op: CacheOp) -> None:
        if isinstance(op, ZeroRow):
            self._cache.zero_row(op.row)
        elif isinstance(op, CopyRow):
            self._cache.copy_row(op.source, op.target)
        else:
            self._cache.copy_block(op.source, op.target, op.num_tokens)

    def _inputs(self, sequences: list[Sequence]) -> ForwardBatch:
        token_ids: list[int] = []
        positions: list[int] = []
        starts, slots = [0], []
        blocks = 0
        for sequence in sequences:
            first, count = sequence.num_computed_tokens, sequence.num_scheduled_tokens
            token_ids += sequence.tokens[first : first + count]
            positions += range(first, first + count)
            starts.append(len(token_ids))
            assert sequence.slot is not None
            slots.append(sequence.slot)
            blocks = max(blocks, len(sequence.block_table))
            self._write_block_table(sequence, sequence.slot)
        return ForwardBatch(
            token_ids_T=self._tensor(token_ids, np.int64),
            positions_T=self._tensor(positions, np.int64),
            query_starts_S1=self._tensor(starts, np.int32),
            block_table_SB=self._tensor(self._block_tables[slots, :blocks], np.int32),
            state_rows_S=self._tensor(slots, np.int32),
            cache=self._cache,
            num_experts_per_token=self._experts_per_token(sequences),
            experts_by_layer=experts_by_layer(sequences, self._device),
            masks=masks_of(sequences, self.network.num_experts, self._device),
            adapters_T=self._adapters(sequences),
        )

    def _tensor(self, numbers: ArrayLike, dtype: DTypeLike) -> Tensor:
        """By way of numpy, which makes an array of a few numbers in a third of the time."""
        return torch.from_numpy(np.array(numbers, dtype, order="C")).to(self._device)

    def _experts_per_token(self, sequences: list[Sequence]) -> int | Tensor | None:
        """The number of experts that all sequences ask for, or by token, 0 for the model's own; None: no sequence."""
        experts_S = [sequence.experts_per_token or 0 for sequence in sequences]
        if len(set(experts_S)) == 1:
            return experts_S[0] or None
        return self._per_token(experts_S, sequences)

    def _adapters(self, sequences: list[Sequence]) -> Tensor | None:
        """The index of each token's adapter; None: no request has one."""
        if self.network.adapters is None:
            return None
        names = [sequence.request.adapter for sequence in sequences]
        if not any(names):
            return None
        index_of = self.network.adapters.names.index
        return self._per_token([NO_ADAPTER if name is None else index_of(name) for name in names], sequences)

    def _per_token(self, values_S: list[int], sequences: list[Sequence]) -> Tensor:
        """The value of each token's sequence."""
        counts = torch.tensor([sequence.num_scheduled_tokens for sequence in sequences], device=self._device)
        return torch.tensor(values_S, device=self._device).repeat_interleave(counts)

    def _write_block_table(self, sequence: Sequence, slot: int) -> None:
        version = (sequence.number, sequence.num_preemptions, len(sequence.block_table))
        if self._written[slot] != version:
            self._written[slot] = version
            self._block_tables[slot, : version[2]] = sequence.block_table

    def _prompt_logprobs(self, sequences: list[Sequence], hidden_RD: Tensor) -> dict[str, list[TokenLogprobs] | None]:
        """Log-probabilities of the prompt tokens after the computed ones, for the sequences that still need them."""
        found: dict[str, list[TokenLogprobs] | None] = {}
        for sequence, rows in _outputs(sequences):
            if sequence.needs_prompt_logprobs:
                first, count = sequence.num_computed_tokens, sequence.num_scheduled_tokens
                targets = range(max(first + 1, sequence.first_scored), min(first + count + 1, sequence.prompt_len))
                found[sequence.request_id] = self._score(sequence, targets, hidden_RD[rows], first)
        return found

    def _score(self, sequence: Sequence, targets: range, hidden_RD: Tensor, first: int) -> list[TokenLogprobs] | None:
        """Scores of the tokens at `targets`; `hidden_RD` begins at position `first`. None: not finite numbers."""
        found: list[TokenLogprobs] = []
        for begin in range(targets.start, targets.stop, SCORED_AT_ONCE):
            end = min(begin + SCORED_AT_ONCE, targets.stop)
            logits_PV = self.network.logits(hidden_RD[begin - 1 - first : end - 1 - first])
            if not bool(torch.isfinite(logits_PV.sum(-1)).all()):
                return None
            count = sequence.sampling.logprobs or 0
            found += token_logprobs(logits_PV, sequence.tokens[begin:end], [count] * (end - begin))
        return found


def _embeddings(sequences: list[Sequence], hidden_RD: Tensor) -> dict[str, tuple[float, ...] | None]:
    """The embeddings that end with this step, by request id. None: not finite numbers."""
    found: dict[str, tuple[float, ...] | None] = {}
    for sequence, rows in _outputs(sequences):
        if sequence.pooler is None:
            continue
        sequence.pooler.add(hidden_RD[rows])
        if sequence.is_last_chunk:
            vector_D = sequence.pooler.result()
            found[sequence.request_id] = tuple(vector_D.tolist()) if bool(torch.isfinite(vector_D.sum())) else None
    return found


def _token_groups(sequences: list[Sequence]) -> Iterator[TokenGroup]:
    """The tokens of the step by task and tenant, in their order."""
    return (
        TokenGroup(sequence.request.routing.task, sequence.tenant, sequence.num_scheduled_tokens)
        for sequence in sequences
    )


def _num_outputs(sequence: Sequence) -> int:
    """How many tokens of the step the network gives outputs for: the sequence's last ones."""
    if sequence.needs_prompt_logprobs or sequence.pooler is not None:
        return sequence.num_scheduled_tokens
    return int(sequence.samples)


def _outputs(sequences: list[Sequence]) -> Iterator[tuple[Sequence, slice]]:
    """Each sequence and its rows of the network's outputs."""
    end = 0
    for sequence in sequences:
        start, end = end, end + _num_outputs(sequence)
        yield sequence, slice(start, end)


def _is_single_decode(sequence: Sequence) -> bool:
    """Whether the step computes one token of the sequence, samples the next one if it is not known, and no more."""
    computes_one = sequence.num_scheduled_tokens == 1 and not sequence.needs_prompt_logprobs
    return computes_one and (sequence.samples or sequence.is_decoding)

"""The tensors of a step: copies as ordered, inputs from the scheduled sequences, and logits where they are needed.

Shapes: T tokens of the step, S sequences, R rows whose next token is sampled, B blocks a sequence, D hidden width,
V vocabulary.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from model.batch import ForwardBatch
from model.cache import CacheStorage
from model.network import CausalLM
from server.engine.cache.prefix_cache import CacheOp, CopyRow, ZeroRow
from server.engine.config import CacheLayout
from server.engine.decode_graphs import DecodeSteps
from server.engine.routing_load import RoutingLoad
from server.engine.sampler import token_logprobs
from server.engine.sequence import Sequence
from server.engine.step import ScheduledBatch
from server.engine.types import TokenLogprobs

SCORED_AT_ONCE = 128  # prompt positions whose logits exist at the same time


@dataclass(frozen=True, slots=True)
class StepResult:
    """Scores for the tokens to sample, and log-probabilities of prompt tokens by request id."""

    logits_RV: Tensor
    prompt_logprobs: dict[str, list[TokenLogprobs]] = field(default_factory=dict)
    not_finite: frozenset[str] = frozenset()  # requests whose prompt could not be scored


class ModelRunner:
    """Runs the network on scheduled batches, over a cache of its own."""

    def __init__(
        self, network: CausalLM, layout: CacheLayout, *, max_model_len: int, device: torch.device | str = "cpu"
    ) -> None:
        self.load = RoutingLoad(network.num_experts)
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
        self.decode_steps = DecodeSteps(network, width)
        self._block_tables = torch.zeros((layout.num_slots, width), dtype=torch.int32)
        self._written = [(-1, 0, 0)] * layout.num_slots  # (sequence, its preemptions, blocks) of each block table

    @torch.inference_mode()
    def execute(self, batch: ScheduledBatch) -> StepResult:
        """Do a step. Raises whatever the network raises; then the batch's sequences cannot go on."""
        for op in batch.cache_ops:
            self._apply(op)
        inputs = self._inputs(batch.sequences)
        if all(_decodes(sequence) for sequence in batch.sequences):
            logits_RV, routings = self.decode_steps.run(inputs)
            self.load.observe(routings)
            return StepResult(logits_RV)
        hidden_TD, routings = self.network(inputs)
        self.load.observe(routings)
        rows, end = [], 0
        for sequence in batch.sequences:
            end += sequence.num_scheduled_tokens
            if sequence.samples:
                rows.append(end - 1)
        scored, failed = self._score_prompts(batch.sequences, hidden_TD)
        if not rows:
            return StepResult(hidden_TD.new_empty(0, self.network.config.vocab_size), scored, failed)
        sampled_RD = hidden_TD if len(rows) == end else hidden_TD[rows]
        return StepResult(self.network.logits(sampled_RD), scored, failed)

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
        slots_S = torch.tensor(slots, dtype=torch.int32)
        return ForwardBatch(
            token_ids_T=torch.tensor(token_ids, device=self._device),
            positions_T=torch.tensor(positions, device=self._device),
            query_starts_S1=torch.tensor(starts, dtype=torch.int32, device=self._device),
            block_table_SB=self._block_tables[:, :blocks].index_select(0, slots_S).to(self._device),
            state_rows_S=slots_S.to(self._device),
            cache=self._cache,
        )

    def _write_block_table(self, sequence: Sequence, slot: int) -> None:
        version = (sequence.number, sequence.num_preemptions, len(sequence.block_table))
        if self._written[slot] != version:
            self._written[slot] = version
            self._block_tables[slot, : version[2]] = torch.tensor(sequence.block_table, dtype=torch.int32)

    def _score_prompts(
        self, sequences: list[Sequence], hidden_TD: Tensor
    ) -> tuple[dict[str, list[TokenLogprobs]], frozenset[str]]:
        """Log-probabilities of the prompt tokens that follow the computed ones, where they are owed."""
        scored: dict[str, list[TokenLogprobs]] = {}
        failed: set[str] = set()
        start = 0
        for sequence in sequences:
            if sequence.scores_prompt:
                first = sequence.num_computed_tokens
                targets = range(
                    max(first + 1, sequence.first_scored),
                    min(first + sequence.num_scheduled_tokens + 1, sequence.prompt_len),
                )
                found = self._score(sequence, targets, hidden_TD[start:], first)
                if found is None:
                    failed.add(sequence.request_id)
                else:
                    scored[sequence.request_id] = found
            start += sequence.num_scheduled_tokens
        return scored, frozenset(failed)

    def _score(self, sequence: Sequence, targets: range, hidden_TD: Tensor, first: int) -> list[TokenLogprobs] | None:
        """Scores of the tokens at `targets`; `hidden_TD` begins at position `first`. None: not finite numbers."""
        found: list[TokenLogprobs] = []
        for begin in range(targets.start, targets.stop, SCORED_AT_ONCE):
            end = min(begin + SCORED_AT_ONCE, targets.stop)
            logits_PV = self.network.logits(hidden_TD[begin - 1 - first : end - 1 - first])
            if not bool(torch.isfinite(logits_PV.sum(-1)).all()):
                return None
            count = sequence.sampling.logprobs or 0
            found += token_logprobs(logits_PV, sequence.tokens[begin:end], [count] * (end - begin))
        return found


def _decodes(sequence: Sequence) -> bool:
    """Whether it has one token to compute, and the next one to sample, and nothing else."""
    return sequence.num_scheduled_tokens == 1 and sequence.samples and not sequence.scores_prompt

"""Which sequences take part in the next step, with how many tokens each. Knows no model and no tensors.

Every running sequence that generates takes part with one token; what is left of the step's token budget goes to
prompts, cut where a state is to be remembered. How a prompt is cut never changes a result: the kernels see to that.
"""

import time
from bisect import insort
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from random import Random

from server.engine.beam import BeamGroup, Continuation
from server.engine.config import CacheLayout, EngineConfig
from server.engine.memory import SequenceMemory
from server.engine.pace import Pace, PromptRoom
from server.engine.prefix_cache import CacheOp
from server.engine.sequence import Sequence, SequenceStatus
from server.engine.types import EngineRequest, FinishReason, TokenLogprobs, TokenOutput

NOT_FINITE = "The model's scores for this request were not finite numbers."


@dataclass(frozen=True, slots=True)
class ScheduledBatch:
    """One step: the sequences (each says its `num_scheduled_tokens`), and copies to be done before, in order."""

    sequences: list[Sequence]
    sampling: list[Sequence]  # those of them that get a new token, in the order of their logits
    cache_ops: list[CacheOp]

    @property
    def is_empty(self) -> bool:
        return not self.sequences

    @property
    def sizes(self) -> dict[str, int]:
        """How many sequences write in this step, and how many tokens of prompts it reads."""
        writing = sum(sequence.is_decoding for sequence in self.sequences)
        tokens = sum(sequence.num_scheduled_tokens for sequence in self.sequences)
        return {"writing": writing, "prompt_tokens": tokens - writing}


@dataclass(frozen=True, slots=True)
class SampledTokens:
    """The tokens of a step, in the order of `ScheduledBatch.sampling`; log-probabilities only where asked for.

    `failed` are the ids of requests whose logits were not finite numbers.
    """

    token_ids: list[int]
    logprobs: Mapping[int, TokenLogprobs] = field(default_factory=dict)  # by index in `token_ids`
    failed: frozenset[str] = frozenset()


@dataclass(slots=True)
class SchedulerCounts:
    """What has happened since the start."""

    prompt_tokens: int = 0
    generation_tokens: int = 0
    prefix_cache_queries: int = 0
    prefix_cache_hits: int = 0
    preemptions: int = 0


class Scheduler:
    """Waiting and running sequences, both in order of (priority, arrival)."""

    def __init__(
        self, config: EngineConfig, layout: CacheLayout, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.config = config
        self.layout = layout
        self.memory = SequenceMemory(config, layout)
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self.counts = SchedulerCounts()
        self.pace = None if config.max_stretch is None else Pace(config.max_stretch)
        self._sequences: dict[str, Sequence] = {}
        self._groups: dict[str, BeamGroup] = {}  # by the id of the request
        self._group_of: dict[Sequence, BeamGroup] = {}
        self._clock = clock
        self._seeds = Random(config.seed)
        self._arrivals = 0

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._sequences or request_id in self._groups

    @property
    def has_unfinished(self) -> bool:
        return bool(self._sequences)

    def add(self, request: EngineRequest) -> None:
        """Put a request into the waiting queue. It must have been checked, and its id must be new."""
        assert request.request_id not in self, "request ids are unique"
        group = None
        if request.sampling.beam_width > 1:
            group = self._groups[request.request_id] = BeamGroup(request, self.config.eos_token_ids)
            request = group.member_request()
        seed = request.sampling.seed if request.sampling.seed is not None else self._seeds.getrandbits(64)
        sequence = Sequence(request, self._next_number(), seed, request.arrival_time or self._clock())
        self._sequences[request.request_id] = sequence
        if group is not None:
            group.scores[sequence] = 0.0
            self._group_of[sequence] = group
        insort(self.waiting, sequence, key=lambda waiting: waiting.key)

    def abort(self, request_id: str) -> list[TokenOutput]:
        """End a request and free its memory. Nothing happens for an id that is unknown or finished."""
        if request_id in self._groups:
            return [self._end_group(self._groups[request_id], FinishReason.ABORT)]
        sequence = self._sequences.pop(request_id, None)
        if sequence is None:
            return []
        self._retire(sequence)
        return [sequence.terminal(FinishReason.ABORT, self._clock())]

    def fail(self, sequences: list[Sequence], error: str) -> list[TokenOutput]:
        """End sequences whose step went wrong, and trust nothing that was remembered."""
        outputs = []
        for sequence in sequences:
            if sequence in self._group_of:
                outputs.append(self._end_group(self._group_of[sequence], FinishReason.ERROR, error))
            elif self._sequences.pop(sequence.request_id, None) is not None:
                self._retire(sequence)
                outputs.append(sequence.terminal(FinishReason.ERROR, self._clock(), error=error))
        self.memory.prefixes.forget()
        return outputs

    def fail_all(self, error: str) -> list[TokenOutput]:
        """End every sequence that has not had its last output, whatever state it is in, with empty memory after."""
        now = self._clock()
        heads = {self._group_of.get(each, each): each for each in self._sequences.values()}  # one of each group
        outputs = [
            replace(
                sequence.terminal(FinishReason.ERROR, now, error=error),
                request_id=head.request.request_id,
            )
            for head, sequence in heads.items()
        ]
        self._sequences.clear()
        self._groups.clear()
        self._group_of.clear()
        self.waiting.clear()
        self.running.clear()
        self.memory = SequenceMemory(self.config, self.layout)
        return outputs

    def schedule(self) -> ScheduledBatch:
        """The next step; empty only when nothing is left to do."""
        batch = self._schedule()
        while not batch and self.running:  # all wait for beams that find no room
            self._preempt(self.running[-1])
            batch = self._schedule()
        sampling = [sequence for sequence in batch if sequence.samples]
        return ScheduledBatch(batch, sampling, self.memory.prefixes.take_pending() if batch else [])

    def _schedule(self) -> list[Sequence]:
        preemptions = self.counts.preemptions
        batch = self._schedule_decode()
        room = self._room_for_prompts(writing=len(batch))
        for sequence in self.running:
            if not sequence.is_decoding and room.for_prompt(sequence):
                self._schedule_prefill(sequence, room)
                batch.append(sequence)
        while self.waiting and room.for_prompt(self.waiting[0]) and self.counts.preemptions == preemptions:
            if not self.memory.admit(self.waiting[0], spare=len(self.running)):  # nobody overtakes it
                break
            sequence = self._start_next()
            self._schedule_prefill(sequence, room)
            batch.append(sequence)
        return batch

    def _room_for_prompts(self, writing: int) -> PromptRoom:
        tokens = self.config.max_num_batched_tokens - writing
        return PromptRoom(tokens, self.pace.piece() if self.pace and writing else tokens, self.config.long_prompt)

    def update(
        self,
        batch: ScheduledBatch,
        sampled: SampledTokens,
        prompt_logprobs: Mapping[str, list[TokenLogprobs]] | None = None,
    ) -> list[TokenOutput]:
        """Enter what the step computed: append tokens, remember prefixes, finish and free."""
        now = self._clock()
        outputs: list[TokenOutput] = []
        finished: list[Sequence] = []
        complete: list[BeamGroup] = []
        rows = {sequence.request_id: row for row, sequence in enumerate(batch.sampling)}
        for sequence in batch.sequences:
            if sequence.status is SequenceStatus.FINISHED:
                continue  # its group ended in this step, with another of its beams
            self.memory.advance(sequence)
            row = rows.get(sequence.request_id)
            if sequence in self._group_of:
                outputs += self._offer(sequence, row, sampled, complete)
                continue
            if sequence.request_id in sampled.failed:
                output: TokenOutput | None = sequence.terminal(FinishReason.ERROR, now, error=NOT_FINITE)
            else:
                if prompt_logprobs and sequence.request_id in prompt_logprobs:
                    sequence.prompt_logprobs.extend(prompt_logprobs[sequence.request_id])
                output = self._output(sequence, row, sampled, now)
            if output is not None:
                outputs.append(output)
                if output.finish_reason is not None:
                    finished.append(sequence)
        self._finish(finished, sampled.failed)
        outputs += [output for group in complete if (output := self._advance_group(group, now)) is not None]
        return outputs

    # The steps of schedule()

    def _schedule_decode(self) -> list[Sequence]:
        batch: list[Sequence] = []
        index = 0
        while index < len(self.running):  # shrinks from its end while we go
            sequence = self.running[index]
            index += 1
            if not sequence.is_decoding or sequence.is_held:
                continue
            if self.memory.needs_block(sequence):
                if not self._make_room(sequence):
                    break
                self.memory.extend(sequence)
            sequence.num_scheduled_tokens = 1
            batch.append(sequence)
        return batch

    def _make_room(self, sequence: Sequence) -> bool:
        """Get one free block by preempting from the end of `running`; False if that hit `sequence` itself."""
        while not self.memory.blocks.can_allocate(1):
            last = self.running[-1]
            self._preempt(last)
            if last is sequence:
                return False
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self._retire(sequence)
        self.counts.preemptions += 1
        sequence.status = SequenceStatus.WAITING
        sequence.num_preemptions += 1
        sequence.num_computed_tokens = 0
        sequence.prompt_logprobs.clear()
        if not sequence.is_held:  # a held beam comes back when its group goes on
            insort(self.waiting, sequence, key=lambda waiting: waiting.key)

    def _schedule_prefill(self, sequence: Sequence, room: PromptRoom) -> None:
        """Give a sequence as many tokens as the step's room, settings and the next position to remember allow."""
        count = min(sequence.prefill_end - sequence.num_computed_tokens, room.for_prompt(sequence))
        if sequence.snapshot_positions:
            count = min(count, sequence.snapshot_positions[0] - sequence.num_computed_tokens)
        if self.config.max_prefill_chunk is not None:
            count = min(count, self.config.max_prefill_chunk)
        sequence.num_scheduled_tokens = count
        room.take(sequence, count)

    def _start_next(self) -> Sequence:
        sequence = self.waiting.pop(0)
        sequence.status = SequenceStatus.RUNNING
        insort(self.running, sequence, key=lambda running: running.key)
        if sequence.scheduled is None:
            sequence.scheduled = self._clock()
            sequence.num_cached_tokens = sequence.num_computed_tokens
            self.counts.prompt_tokens += sequence.prompt_len
            if self.memory.prefixes.enabled:
                self.counts.prefix_cache_queries += sequence.prompt_len
                self.counts.prefix_cache_hits += sequence.num_cached_tokens
        return sequence

    # The steps of update()

    def _output(self, sequence: Sequence, row: int | None, sampled: SampledTokens, now: float) -> TokenOutput | None:
        """What the client gets of this step, if anything."""
        if not sequence.is_decoding:
            return None
        prompt_logprobs = tuple(sequence.prompt_logprobs)
        sequence.prompt_logprobs.clear()
        sequence.scores_prompt = False
        if row is None:  # max_tokens is 0
            return sequence.terminal(FinishReason.LENGTH, now, prompt_logprobs=prompt_logprobs)
        token = sampled.token_ids[row]
        logprobs = (sampled.logprobs[row],) if row in sampled.logprobs else ()
        sequence.tokens.append(token)
        self.counts.generation_tokens += 1
        if sequence.first_token is None:
            sequence.first_token = now
        reason = self._finish_reason(sequence, token)
        if reason is None:
            return TokenOutput(sequence.request_id, (token,), logprobs, prompt_logprobs, sequence.num_cached_tokens)
        return sequence.terminal(reason, now, token_ids=(token,), logprobs=logprobs, prompt_logprobs=prompt_logprobs)

    def _finish_reason(self, sequence: Sequence, token: int) -> FinishReason | None:
        sampling = sequence.sampling
        if token in sampling.stop_token_ids or (token in self.config.eos_token_ids and not sampling.ignore_eos):
            return FinishReason.STOP
        if sequence.num_output_tokens >= sampling.max_tokens or len(sequence.tokens) >= self.config.max_model_len:
            return FinishReason.LENGTH
        return None

    def _finish(self, finished: list[Sequence], failed: frozenset[str]) -> None:
        for sequence in finished:
            if sequence.request_id not in failed and sequence.num_output_tokens:
                self.memory.prefixes.remember_state(sequence)  # the next turn of the conversation starts here
            del self._sequences[sequence.request_id]
            self._retire(sequence)
        if failed:
            self.memory.prefixes.forget()

    # Beams

    def _offer(
        self, sequence: Sequence, row: int | None, sampled: SampledTokens, complete: list[BeamGroup]
    ) -> list[TokenOutput]:
        """Enter a beam's next tokens, and its group into `complete` if it was the last."""
        group = self._group_of[sequence]
        if sequence.request_id in sampled.failed:
            return [self._end_group(group, FinishReason.ERROR, NOT_FINITE)]
        if row is not None:
            sequence.is_held = True
            if group.offer(sequence, sampled.logprobs[row]):
                complete.append(group)
        return []

    def _advance_group(self, group: BeamGroup, now: float) -> TokenOutput | None:
        """Let the best continuations go on; the group's answer when none does, or none may."""
        chosen = group.choose()
        some = next(iter(group.scores))
        if some.first_token is None:
            some.first_token = now
        length = len(some.tokens) + 1
        may_go_on = length - some.prompt_len < some.sampling.max_tokens and length < self.config.max_model_len
        if chosen and may_go_on:
            self._continue_group(group, chosen)
            return None
        token_ids, ended = group.answer(chosen)
        self.counts.generation_tokens += len(token_ids)
        return self._end_group(group, FinishReason.STOP if ended else FinishReason.LENGTH, token_ids=token_ids)

    def _continue_group(self, group: BeamGroup, chosen: list[Continuation]) -> None:
        """The first continuation of a beam takes it over, others get copies of it; beams without any are dropped."""
        parents = {continuation.parent for continuation in chosen}
        for sequence in group.scores:
            if sequence not in parents:
                self._drop(sequence)
        heirs: dict[Sequence, int] = {}
        group.scores.clear()
        for parent, token, score in chosen:
            if parent in heirs:
                group.scores[self._fork(group, parent, token)] = score
            else:
                heirs[parent] = token
                group.scores[parent] = score
        for parent, token in heirs.items():  # only now: the copies were to end with other tokens
            parent.tokens.append(token)
            parent.is_held = False
            if parent.status is SequenceStatus.WAITING:
                insort(self.waiting, parent, key=lambda waiting: waiting.key)

    def _fork(self, group: BeamGroup, parent: Sequence, token: int) -> Sequence:
        """One more beam, running on a copy of its parent's memory, or waiting like a preempted one without room."""
        child = parent.fork(group.member_request(), self._next_number(), token)
        self._sequences[child.request_id] = child
        self._group_of[child] = group
        if parent.status is SequenceStatus.RUNNING and self.memory.copy(parent, child):
            child.status = SequenceStatus.RUNNING
            child.num_computed_tokens = child.prefill_end = parent.num_computed_tokens
            insort(self.running, child, key=lambda running: running.key)
        else:
            insort(self.waiting, child, key=lambda waiting: waiting.key)
        return child

    def _end_group(
        self, group: BeamGroup, reason: FinishReason, error: str | None = None, *, token_ids: tuple[int, ...] = ()
    ) -> TokenOutput:
        """Free all beams; the one output of the request."""
        some = next(iter(group.scores))
        for sequence in group.scores:
            self._drop(sequence)
        del self._groups[group.request.request_id]
        output = some.terminal(reason, self._clock(), token_ids=token_ids, error=error)
        return replace(output, request_id=group.request.request_id)

    def _drop(self, sequence: Sequence) -> None:
        del self._sequences[sequence.request_id]
        del self._group_of[sequence]
        self._retire(sequence)

    def _next_number(self) -> int:
        self._arrivals += 1
        return self._arrivals

    def _retire(self, sequence: Sequence) -> None:
        """Take a sequence out of its queue and free what it owns."""
        if sequence.status is SequenceStatus.RUNNING:
            self.running.remove(sequence)
            self.memory.release(sequence)
        elif not sequence.is_held:
            self.waiting.remove(sequence)
        sequence.status = SequenceStatus.FINISHED

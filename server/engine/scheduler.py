"""Which sequences take part in the next step, with how many tokens each. Knows no model and no tensors.

Every running sequence that generates takes part with one token; what is left of the step's token budget goes to
prompts, cut where a state is to be remembered. How a prompt is cut never changes a result: the kernels see to that.
"""

import time
from collections.abc import Callable
from random import Random

from server.engine.beam.search import BeamSearch
from server.engine.config import CacheLayout, EngineConfig
from server.engine.prefill_budget import Pace, PromptRoom
from server.engine.queues import Queues
from server.engine.sequence import Sequence, SequenceStatus
from server.engine.step import NOT_FINITE, ScheduledBatch, SchedulerCounts, StepOutput
from server.engine.types import EngineRequest, FinishReason, TokenOutput


class Scheduler:
    """Chooses the sequences of each step, and enters what it gave."""

    def __init__(
        self, config: EngineConfig, layout: CacheLayout, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.config = config
        self.layout = layout
        self.queues = Queues(config, layout)
        self.memory, self.waiting, self.running = self.queues.memory, self.queues.waiting, self.queues.running
        self.counts = SchedulerCounts()
        self.beams = BeamSearch(config, self.queues, self.counts, clock)
        self.pace = None if config.max_stretch is None else Pace(config.max_stretch)
        self._clock = clock
        self._seeds = Random(config.seed)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self.queues.by_id or request_id in self.beams

    @property
    def has_unfinished(self) -> bool:
        return bool(self.queues.by_id)

    @property
    def running_requests(self) -> int:
        """How many requests have a sequence that runs; of a search, several may."""
        return len({self.beams.request_of(sequence) for sequence in self.running})

    def add(self, request: EngineRequest) -> None:
        """Put a request into the waiting queue. It must have been checked, and its id must be new."""
        assert request.request_id not in self, "request ids are unique"
        first = self.beams.open(request) if request.sampling.beam_width > 1 else request
        seed = request.sampling.seed if request.sampling.seed is not None else self._seeds.getrandbits(64)
        sequence = Sequence(first, self.queues.next_number(), seed, request.arrival_time or self._clock())
        self.queues.enter(sequence)
        if first is not request:
            self.beams.start(request.request_id, sequence)

    def abort(self, request_id: str) -> list[TokenOutput]:
        """End a request and free its memory. Nothing happens for an id that is unknown or finished."""
        if request_id in self.beams:
            return [self.beams.abort(request_id)]
        sequence = self.queues.by_id.get(request_id)
        if sequence is None:
            return []
        self.queues.leave(sequence)
        return [sequence.terminal(FinishReason.ABORT, self._clock())]

    def fail(self, sequences: list[Sequence], error: str) -> list[TokenOutput]:
        """End sequences whose step went wrong, and trust nothing that was remembered."""
        outputs = []
        for sequence in sequences:
            if self.beams.has(sequence):
                outputs.append(self.beams.fail(sequence, error))
            elif sequence.request_id in self.queues.by_id:
                self.queues.leave(sequence)
                outputs.append(sequence.terminal(FinishReason.ERROR, self._clock(), error=error))
        self.memory.prefixes.forget()
        return outputs

    def clear(self) -> None:
        """Forget every sequence, whatever state it is in, with empty memory after."""
        self.beams.clear()
        self.queues.clear()

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
        room = self._room_for_prompts(decodes=len(batch))
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

    def _room_for_prompts(self, decodes: int) -> PromptRoom:
        tokens = self.config.max_num_batched_tokens - decodes
        return PromptRoom(tokens, self.pace.piece() if self.pace and decodes else tokens, self.config.long_prompt)

    def update(self, batch: ScheduledBatch, computed: StepOutput) -> list[TokenOutput]:
        """Enter what the step computed: append tokens, remember prefixes, finish and free."""
        now = self._clock()
        outputs: list[TokenOutput] = []
        finished: list[Sequence] = []
        rows = {sequence.request_id: row for row, sequence in enumerate(batch.sampling)}
        for sequence in batch.sequences:
            if sequence.status is SequenceStatus.FINISHED:
                continue  # its group ended in this step, with another of its beams
            self.memory.advance(sequence)
            row = rows.get(sequence.request_id)
            if self.beams.has(sequence):
                outputs += self.beams.offer(sequence, row, computed)
            elif (output := self._output(sequence, row, computed, now)) is not None:
                outputs.append(output)
                if output.finish_reason is not None:
                    finished.append(sequence)
        self._finish(finished, computed.failed)
        return outputs + self.beams.advance()

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
        self.queues.retire(sequence)
        self.counts.preemptions += 1
        sequence.status = SequenceStatus.WAITING
        sequence.num_preemptions += 1
        sequence.num_computed_tokens = 0
        sequence.prompt_logprobs.clear()
        if not sequence.is_held:  # a held beam comes back when its group goes on
            self.queues.wait(sequence)

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
        self.queues.run(sequence)
        if sequence.scheduled is None:
            sequence.scheduled = self._clock()
            sequence.num_cached_tokens = sequence.num_computed_tokens
            self.counts.prompt_tokens += sequence.prompt_len
            if self.memory.prefixes.enabled:
                self.counts.prefix_cache_queries += sequence.prompt_len
                self.counts.prefix_cache_hits += sequence.num_cached_tokens
        return sequence

    # The steps of update()

    def _output(self, sequence: Sequence, row: int | None, computed: StepOutput, now: float) -> TokenOutput | None:
        """What the client gets of this step, if anything."""
        if sequence.request_id in computed.failed:
            return sequence.terminal(FinishReason.ERROR, now, error=NOT_FINITE)
        sequence.prompt_logprobs.extend(computed.prompt_logprobs.get(sequence.request_id, ()))
        if not sequence.is_decoding:
            return None
        prompt_logprobs = tuple(sequence.prompt_logprobs)
        sequence.prompt_logprobs.clear()
        sequence.scores_prompt = False
        if row is None:  # max_tokens is 0
            return sequence.terminal(FinishReason.LENGTH, now, prompt_logprobs=prompt_logprobs)
        token = computed.token_ids[row]
        logprobs = (computed.logprobs[row],) if row in computed.logprobs else ()
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
            self.queues.leave(sequence)
        if failed:
            self.memory.prefixes.forget()

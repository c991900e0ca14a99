"""Which sequences take part in the next step, with how many tokens each. Knows no model and no tensors.

Every running sequence that generates takes part with one token; what is left of the step's token budget goes to
prompts, cut where a state is to be remembered. How a prompt is cut never changes a result: the kernels see to that.
"""

import time
from collections.abc import Callable
from random import Random

from server.engine.beam.search import BeamSearch
from server.engine.config import CacheLayout, EngineConfig
from server.engine.logits_processors import build_logits_processors
from server.engine.prefill_budget import Pace, PromptRoom
from server.engine.queues import Queues
from server.engine.sequence import Sequence, SequenceStatus
from server.engine.step import NOT_FINITE, ModelOutput, SampledTokens, ScheduledBatch, SchedulerStats
from server.engine.types import EmbedRequest, EngineOutput, EngineRequest, FinishReason, GenerateRequest, TokenLogprobs


class Scheduler:
    """Chooses the sequences of each step, and enters what it gave."""

    def __init__(
        self, config: EngineConfig, layout: CacheLayout, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.config = config
        self.layout = layout
        self.queues = Queues(config, layout)
        self.cache, self.waiting, self.running = self.queues.cache, self.queues.waiting, self.queues.running
        self.stats = SchedulerStats()
        self.beams = BeamSearch(config, self.queues, self.stats, clock)
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
        if isinstance(request, GenerateRequest) and request.sampling.beam_width > 1:
            first = self._new_sequence(self.beams.open(request))
            self.queues.enter(first)
            self.beams.start(request.request_id, first)
        else:
            sequence = self._new_sequence(request)
            sequence.logits_processors = build_logits_processors(
                request.sampling, request.prompt_token_ids, self.config.eos_token_ids
            )
            self.queues.enter(sequence)

    def _new_sequence(self, request: EngineRequest) -> Sequence:
        seed = request.sampling.seed if request.sampling.seed is not None else self._seeds.getrandbits(64)
        return Sequence(request, self.queues.next_number(), seed, request.arrival_time or self._clock())

    def abort(self, request_id: str) -> list[EngineOutput]:
        """End a request and free its memory. Nothing happens for an id that is unknown or finished."""
        if request_id in self.beams:
            return [self.beams.abort(request_id)]
        sequence = self.queues.by_id.get(request_id)
        if sequence is None:
            return []
        self.queues.leave(sequence)
        return [sequence.terminal(FinishReason.ABORT, self._clock())]

    def fail(self, sequences: list[Sequence], error: str) -> list[EngineOutput]:
        """End sequences whose step went wrong, and trust nothing that was remembered."""
        outputs = []
        for sequence in sequences:
            if self.beams.has(sequence):
                outputs.append(self.beams.fail(sequence, error))
            elif sequence.request_id in self.queues.by_id:
                self.queues.leave(sequence)
                outputs.append(sequence.terminal(FinishReason.ERROR, self._clock(), error=error))
        self.cache.prefixes.forget()
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
        return ScheduledBatch(batch, sampling, self.cache.prefixes.take_pending() if batch else [])

    def _schedule(self) -> list[Sequence]:
        preemptions = self.stats.preemptions
        batch = self._schedule_decode()
        room = self._room_for_prompts(sum(sequence.num_scheduled_tokens for sequence in batch))
        for sequence in self.running:
            if not sequence.is_decoding and room.for_prompt(sequence):
                self._schedule_prefill(sequence, room)
                batch.append(sequence)
        while self.waiting and room.for_prompt(self.waiting[0]) and self.stats.preemptions == preemptions:
            if not self.cache.admit(self.waiting[0], spare=len(self.running)):  # nobody overtakes it
                break
            sequence = self._start_next()
            self._schedule_prefill(sequence, room)
            batch.append(sequence)
        return batch

    def _room_for_prompts(self, decodes: int) -> PromptRoom:
        tokens = self.config.max_num_batched_tokens - decodes
        return PromptRoom(tokens, self.pace.piece() if self.pace and decodes else tokens, self.config.long_prompt)

    def update(self, batch: ScheduledBatch, computed: ModelOutput, sampled: SampledTokens) -> list[EngineOutput]:
        """Enter the results of a step: append tokens, save prefixes, finish sequences and free their memory."""
        now = self._clock()
        failed = computed.failed | sampled.failed
        outputs: list[EngineOutput] = []
        finished: list[Sequence] = []
        rows = {sequence: row for row, sequence in enumerate(batch.sampling)}
        for sequence in batch.sequences:
            if sequence.status is SequenceStatus.FINISHED:
                continue  # its group ended in this step, with another of its beams
            self.cache.advance(sequence)
            row = rows.get(sequence)
            if self.beams.has(sequence):
                outputs += self._offer(sequence, row, sampled, failed)
                continue
            if sequence.request_id in failed:
                output = sequence.terminal(FinishReason.ERROR, now, error=NOT_FINITE)
            elif row is not None:
                output = self._token_output(sequence, row, computed, sampled, now)
            elif (of_prompt := self._prompt_output(sequence, computed, now)) is not None:
                output = of_prompt
            else:
                continue
            outputs.append(output)
            if output.finish_reason is not None:
                finished.append(sequence)
        self._finish(finished, failed)
        return outputs + self.beams.advance()

    # The steps of schedule()

    def _schedule_decode(self) -> list[Sequence]:
        batch: list[Sequence] = []
        spare = self.config.max_num_batched_tokens - len(self.running)  # beyond the one token that each gets
        index = 0
        while index < len(self.running):  # shrinks from its end while we go
            sequence = self.running[index]
            index += 1
            if not sequence.is_decoding or sequence.is_held:
                continue
            if not self._ensure_blocks(sequence):
                break
            sequence.num_scheduled_tokens = min(len(sequence.tokens) - sequence.num_computed_tokens, 1 + spare)
            spare -= sequence.num_scheduled_tokens - 1
            batch.append(sequence)
        return batch

    def _ensure_blocks(self, sequence: Sequence) -> bool:
        """Give a sequence blocks for all its tokens, preempting from the end of `running`; False if it is preempted."""
        while self.cache.needs_block(sequence):
            while not self.cache.blocks.can_allocate(1):
                last = self.running[-1]
                self._preempt(last)
                if last is sequence:
                    return False
            self.cache.extend(sequence)
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self.queues.retire(sequence)
        self.stats.preemptions += 1
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
            self.stats.prompt_tokens += sequence.prompt_len
            if self.cache.prefixes.enabled:
                self.stats.prefix_cache_queries += sequence.prompt_len
                self.stats.prefix_cache_hits += sequence.num_cached_tokens
        return sequence

    # The steps of update()

    def _offer(
        self, beam: Sequence, row: int | None, sampled: SampledTokens, failed: frozenset[str]
    ) -> list[EngineOutput]:
        if beam.request_id in failed:
            return [self.beams.fail(beam)]
        if row is not None:
            self.beams.offer(beam, sampled.logprobs[row][0])
        return []

    def _token_output(
        self, sequence: Sequence, row: int, computed: ModelOutput, sampled: SampledTokens, now: float
    ) -> EngineOutput:
        """Append the sampled tokens up to the first that ends the sequence; the output of this step."""
        token_ids, reason = self._until_end(sequence, sampled.token_ids[row])
        sequence.append(token_ids)
        self.stats.generation_tokens += len(token_ids)
        if sequence.first_token is None:
            sequence.first_token = now
        logprobs = sampled.logprobs[row][: len(token_ids)] if row in sampled.logprobs else ()
        prompt_logprobs = self._take_prompt_logprobs(sequence, computed) if sequence.needs_prompt_logprobs else ()
        if reason is None:
            return EngineOutput(sequence.request_id, token_ids, logprobs, prompt_logprobs, sequence.num_cached_tokens)
        return sequence.terminal(reason, now, token_ids=token_ids, logprobs=logprobs, prompt_logprobs=prompt_logprobs)

    def _prompt_output(self, sequence: Sequence, computed: ModelOutput, now: float) -> EngineOutput | None:
        """The output of a request that generates nothing, once its whole prompt is computed."""
        if not sequence.is_decoding or sequence.sampling.max_tokens:
            sequence.prompt_logprobs.extend(computed.prompt_logprobs.get(sequence.request_id, ()))
            return None
        if isinstance(sequence.request, EmbedRequest):
            return sequence.terminal(FinishReason.STOP, now, embedding=computed.embeddings[sequence.request_id])
        return sequence.terminal(
            FinishReason.LENGTH, now, prompt_logprobs=self._take_prompt_logprobs(sequence, computed)
        )

    def _take_prompt_logprobs(self, sequence: Sequence, computed: ModelOutput) -> tuple[TokenLogprobs, ...]:
        """All log-probabilities of the prompt, those of earlier steps included; they are sent once."""
        found = (*sequence.prompt_logprobs, *computed.prompt_logprobs.get(sequence.request_id, ()))
        sequence.prompt_logprobs.clear()
        sequence.needs_prompt_logprobs = False
        return found

    def _until_end(self, sequence: Sequence, token_ids: tuple[int, ...]) -> tuple[tuple[int, ...], FinishReason | None]:
        """The tokens up to the first that ends the sequence, and why it ends."""
        for count, token_id in enumerate(token_ids, 1):
            if (reason := self._finish_reason(sequence, token_id, count)) is not None:
                return token_ids[:count], reason
        return token_ids, None

    def _finish_reason(self, sequence: Sequence, token_id: int, count: int) -> FinishReason | None:
        """Why the sequence ends with `token_id`, the last of `count` new tokens; None if it goes on."""
        sampling = sequence.sampling
        if token_id in sampling.stop_token_ids or (token_id in self.config.eos_token_ids and not sampling.ignore_eos):
            return FinishReason.STOP
        length = len(sequence.tokens) + count
        if length - sequence.prompt_len >= sampling.max_tokens or length >= self.config.max_model_len:
            return FinishReason.LENGTH
        return None

    def _finish(self, finished: list[Sequence], failed: frozenset[str]) -> None:
        for sequence in finished:
            if sequence.request_id not in failed and sequence.num_output_tokens:
                self.cache.prefixes.remember_state(sequence)  # the next turn of the conversation starts here
            self.queues.leave(sequence)
        if failed:
            self.cache.prefixes.forget()

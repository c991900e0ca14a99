"""Which sequences take part in the next step, with how many tokens each. Knows no model.

Every decoding sequence computes its newest tokens. What is left of the step's token budget goes to prompts, as the
policy says, in chunks that end where a state is to be saved. How a prompt is cut never changes a result, because the
kernels compute every token in the same way.
"""

import time
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from random import Random

from server.engine.beam.search import BeamSearch
from server.engine.cache.layout import CacheLayout
from server.engine.cache.sequence_cache import CacheUsage
from server.engine.config import EngineConfig
from server.engine.fair_share import victim
from server.engine.grammar.compiler import GrammarCompiler
from server.engine.logits_processors import build_logits_processors
from server.engine.policy import PrefillBudget, PrefillTurn, SchedulingPolicy
from server.engine.routing.adaptive_experts import AdaptiveExperts
from server.engine.sequence import Sequence, SequenceStatus
from server.engine.sequence_pool import SequencePool, in_queue_order
from server.engine.step import NOT_FINITE, ModelOutput, SampledTokens, ScheduledBatch, SchedulerStats
from server.engine.types import (
    EmbedRequest,
    EngineOutput,
    EngineRequest,
    FinishReason,
    GenerateRequest,
    TokenLogprobs,
)

MAX_ANSWER_SNAPSHOTS = 16  # snapshots of one answer while it is generated
MAX_ENDED_DEADLINES = 100  # kept of requests that have ended, beside twice as many as have not


class Scheduler:
    """Chooses the sequences of each step and applies its results."""

    def __init__(
        self,
        config: EngineConfig,
        layout: CacheLayout,
        *,
        grammars: GrammarCompiler | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config = config
        self.pool = SequencePool(config, layout)
        self.policy = SchedulingPolicy(config, clock)
        self.stats = SchedulerStats()
        self.beams = BeamSearch(config, self.pool, self.stats, clock)
        self.adaptive = AdaptiveExperts(config.adaptive_experts, clock) if config.adaptive_experts else None
        self._grammars = grammars
        self._clock = clock
        self._seeds = Random(config.seed)
        self._turn: PrefillTurn | None = None
        self._deadlines: list[tuple[float, str]] = []  # a heap, with ids that have ended since

    def __contains__(self, request_id: str) -> bool:
        return request_id in self.pool.by_id or request_id in self.beams

    @property
    def has_unfinished(self) -> bool:
        return bool(self.pool.by_id)

    @property
    def num_running_requests(self) -> int:
        """How many requests have a running sequence; a beam search may have several."""
        return len({self.beams.request_of(sequence) for sequence in self.pool.running})

    @property
    def cache_usage(self) -> CacheUsage:
        return self.pool.cache.usage

    def add(self, request: EngineRequest) -> None:
        """Put a request into the waiting queue. It must have been checked, and its id must be new."""
        assert request.request_id not in self, "request ids are unique"
        self._join(request.scheduling.tenant)
        if request.scheduling.deadline is not None:
            self._add_deadline(request.scheduling.deadline, request.request_id)
        if isinstance(request, GenerateRequest) and request.sampling.beam_width > 1:
            first_beam = self._new_sequence(self.beams.open(request))
            self.pool.add(first_beam)
            self.beams.start(request.request_id, first_beam)
        else:
            sequence = self._new_sequence(request)
            self._add_logits_processors(sequence)
            self.pool.add(sequence)

    def abort(self, request_id: str) -> list[EngineOutput]:
        """End a request and free its memory. Nothing happens for an id that is unknown or finished."""
        if request_id in self.beams:
            return [self.beams.abort(request_id)]
        sequence = self.pool.by_id.get(request_id)
        if sequence is None:
            return []
        self.pool.remove(sequence)
        return [sequence.terminal(FinishReason.ABORT, self._clock())]

    def time_out(self) -> list[EngineOutput]:
        """End the requests whose deadline has come."""
        outputs: list[EngineOutput] = []
        now = self._clock() if self._deadlines else 0.0
        while self._deadlines and self._deadlines[0][0] <= now:
            _, request_id = heappop(self._deadlines)
            if request_id in self.beams:
                outputs.append(self.beams.time_out(request_id))
            elif (sequence := self.pool.by_id.get(request_id)) is not None:
                self.pool.remove(sequence)
                outputs.append(sequence.terminal(FinishReason.TIMEOUT, now))
        return outputs

    def fail(self, sequences: list[Sequence], error: str) -> list[EngineOutput]:
        """End the sequences of a failed step, and reuse nothing that was computed so far."""
        outputs = []
        for sequence in sequences:
            if self.beams.has(sequence):
                outputs.append(self.beams.fail(sequence, error))
            elif sequence.request_id in self.pool.by_id:
                self.pool.remove(sequence)
                outputs.append(sequence.terminal(FinishReason.ERROR, self._clock(), error=error))
        self.pool.cache.forget_prefixes()
        return outputs

    def clear(self) -> None:
        """Forget all sequences and free all memory, whatever state they are in."""
        self.beams.clear()
        self.pool.clear()
        self._deadlines.clear()

    def schedule(self) -> ScheduledBatch:
        """The next step; empty only when nothing is left to do."""
        if self.adaptive is not None:
            self.adaptive.update(len(self.pool.waiting))
        decodes, prefills = self._schedule_sequences()
        while not decodes and not prefills and self.pool.running:  # all wait for beams that find no memory
            self._preempt(self.pool.running[-1])
            decodes, prefills = self._schedule_sequences()
        batch = decodes + prefills
        self.policy.fair_share.charge(batch)
        return ScheduledBatch(
            batch,
            [sequence for sequence in batch if sequence.samples],
            self.pool.cache.take_ops() if batch else [],
            len(decodes),
            sum(sequence.num_scheduled_tokens for sequence in prefills),
        )

    def update(self, batch: ScheduledBatch, computed: ModelOutput, sampled: SampledTokens) -> list[EngineOutput]:
        """Apply the results of a step: append tokens, save prefixes, finish sequences and free their memory."""
        now, failed = self._clock(), computed.failed | sampled.failed
        rows = {sequence: row for row, sequence in enumerate(batch.sampling)}
        outputs: list[EngineOutput] = []
        for sequence in batch.sequences:
            if sequence.status is SequenceStatus.FINISHED:
                continue  # a beam whose group has ended in this step
            self.pool.cache.advance(sequence)
            if sequence.is_at_snapshot_token and sequence.num_answer_snapshots < MAX_ANSWER_SNAPSHOTS:
                sequence.num_answer_snapshots += 1
                self.pool.cache.save_state(sequence)
            sequence.routing += computed.routing.get(sequence.request_id, ())
            row = rows.get(sequence)
            if sequence.request_id in failed:
                outputs.append(self._fail(sequence, now))
            elif row is None:
                outputs += self._prompt_output(sequence, computed, now)
            elif self.beams.has(sequence):
                self.beams.offer(sequence, sampled.logprobs[row][0])
            else:
                outputs.append(self._token_output(sequence, row, computed, sampled, now))
        if failed:
            self.pool.cache.forget_prefixes()
        return outputs + self.beams.advance()

    def observe_step(self, seconds: float, *, decodes: int, prefill_tokens: int) -> None:
        """Tell the policy how long a step took."""
        self.policy.observe(seconds, decodes=decodes, prefill_tokens=prefill_tokens)

    def _join(self, tenant: str) -> None:
        tenants = {sequence.tenant for sequence in self.pool.by_id.values()}
        if tenant not in tenants:
            self.policy.fair_share.join(tenant, tenants)

    def _add_logits_processors(self, sequence: Sequence) -> None:
        sampling, prompt = sequence.sampling, sequence.request.prompt_token_ids
        sequence.logits_processors = build_logits_processors(sampling, prompt, self.config.eos_token_ids)
        if sampling.grammar is not None:
            assert self._grammars is not None, "check_request refuses grammars then"
            sequence.grammar = self._grammars.constraint(sampling.grammar)
            sequence.logits_processors += (sequence.grammar,)

    def _add_deadline(self, deadline: float, request_id: str) -> None:
        if len(self._deadlines) >= 2 * len(self.pool.by_id) + MAX_ENDED_DEADLINES:
            self._deadlines = [entry for entry in self._deadlines if entry[1] in self]
            heapify(self._deadlines)
        heappush(self._deadlines, (deadline, request_id))

    # The steps of schedule()

    def _schedule_sequences(self) -> tuple[list[Sequence], list[Sequence]]:
        """The decoding sequences of a step, and those that compute prompt tokens."""
        self._preempt_for_waiting()
        if overdue := self._schedule_overdue():
            return [], overdue
        preemptions = self.stats.preemptions
        decodes, prefilling = self._schedule_decodes()
        waiting = self.pool.waiting if self.pool.cache.has_free_slot and self.stats.preemptions == preemptions else []
        if not prefilling and not waiting:
            return decodes, []
        budget = self.policy.budget(decodes, self.pool.by_id.values())
        return decodes, self._schedule_prefills(prefilling, waiting, budget)

    def _schedule_overdue(self) -> list[Sequence]:
        """The prompts of a tenant that was served least, for a step without the sequences of others.

        A step with a full batch may take as long as a prompt, so the first token would come twice as late. The tenant's
        turn goes on until it has computed as many tokens as one step may; then the others decode, and it gets no more
        tokens by it than they do.
        """
        turn, self._turn = self._turn, None
        running, waiting = self.pool.running, self.pool.waiting if self.pool.cache.has_free_slot else []
        prefilling = [sequence for sequence in running if not sequence.is_decoding]
        if turn is None:
            tenant = self.policy.fair_share.overdue(prefilling + waiting, running)
            if tenant is None:
                return []
            decoding = [sequence for sequence in running if sequence.is_decoding]
            turn = PrefillTurn(tenant, self.policy.budget_of_turn(decoding))
        scheduled = self._schedule_prefills(turn.own(prefilling), turn.own(waiting), turn.budget)
        if scheduled:
            turn.take(scheduled)
            self._turn = turn
        return scheduled

    def _preempt_for_waiting(self) -> None:
        """Let waiting sequences run that may take the place of others, where no place is free."""
        hopeless: set[tuple[int, str]] = set()  # what they have in common decides
        for sequence in list(self.pool.waiting):
            kind = sequence.priority, sequence.tenant
            if kind in hopeless or victim(self.pool.running, sequence) is None:
                hopeless.add(kind)
                continue
            while not self._admit(sequence) and (last := victim(self.pool.running, sequence)) is not None:
                self._preempt(last)

    def _schedule_decodes(self) -> tuple[list[Sequence], list[Sequence]]:
        """Give the decoding sequences their tokens; the second list are running sequences that do not decode yet.

        A sequence may have several tokens that are not computed, where its grammar forces some. They are computed
        together if no other sequence runs: a longer step would delay the others, and is not captured.
        """
        decodes: list[Sequence] = []
        prefilling: list[Sequence] = []
        running = self.pool.running
        most = self.config.max_num_batched_tokens if len(running) == 1 else 1
        index = 0
        while index < len(running):  # preemption shortens it from the end
            sequence = running[index]
            index += 1
            if not sequence.is_decoding:
                prefilling.append(sequence)
            elif not sequence.is_held:
                if not self._ensure_blocks(sequence):
                    break
                sequence.num_scheduled_tokens = min(len(sequence.tokens) - sequence.num_computed_tokens, most)
                decodes.append(sequence)
        return decodes, prefilling

    def _ensure_blocks(self, sequence: Sequence) -> bool:
        """Give a sequence blocks for all its tokens, preempting from the end of `running`; False if it is preempted."""
        while self.pool.cache.needs_block(sequence):
            while not self.pool.cache.can_extend():
                last = self.pool.running[-1]
                self._preempt(last)
                if last is sequence:
                    return False
            self.pool.cache.extend(sequence)
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self.pool.preempt(sequence)
        self.stats.preemptions += 1

    def _schedule_prefills(
        self, prefilling: list[Sequence], waiting: list[Sequence], budget: PrefillBudget
    ) -> list[Sequence]:
        """Give prompts their tokens in the order of the policy. If one finds no memory, no other is admitted."""
        scheduled: dict[Sequence, None] = {}
        may_admit = True
        for sequence, share in self.policy.share_out(budget, in_queue_order(prefilling, waiting)):
            if sequence.status is SequenceStatus.WAITING:
                may_admit = may_admit and self._admit(sequence)
                if not may_admit and not prefilling:
                    break
                if not may_admit:
                    continue
            count = min(self._chunk_size(sequence), share.available(sequence))
            share.take(sequence, count)
            sequence.num_scheduled_tokens += count
            scheduled[sequence] = None
        return list(scheduled)

    def _admit(self, sequence: Sequence) -> bool:
        if self.adaptive is not None and sequence.scheduled is None:
            self._choose_experts(sequence, self.adaptive.number)
        if not self.pool.admit(sequence):
            return False
        if sequence.scheduled is None:
            sequence.scheduled = self._clock()
            sequence.num_cached_tokens = sequence.num_computed_tokens
            self.stats.prompt_tokens += sequence.prompt_len
            if self.pool.cache.prefix_caching:
                self.stats.prefix_cache_queries += sequence.prompt_len
                self.stats.prefix_cache_hits += sequence.num_cached_tokens
        return True

    def _choose_experts(self, sequence: Sequence, number: int) -> None:
        """Give a sequence that begins the number of experts of the moment, unless its request has a say in it."""
        asked = sequence.request.routing
        is_free = isinstance(sequence.request, GenerateRequest) and asked.adaptive and asked.experts_per_token is None
        if is_free and sequence.experts_per_token != number:
            sequence.choose_experts(number)

    def _chunk_size(self, sequence: Sequence) -> int:
        """How many more prompt tokens a sequence can compute in this step: up to where its state is to be saved."""
        end = sequence.snapshot_positions[0] if sequence.snapshot_positions else sequence.prefill_end
        chunk = min(end - sequence.num_computed_tokens, self.config.max_prefill_chunk or end)
        return chunk - sequence.num_scheduled_tokens

    def _new_sequence(self, request: EngineRequest) -> Sequence:
        seed = request.sampling.seed if request.sampling.seed is not None else self._seeds.getrandbits(64)
        return Sequence(request, self.pool.next_number(), seed, request.arrival_time or self._clock())

    # The steps of update()

    def _fail(self, sequence: Sequence, now: float) -> EngineOutput:
        if self.beams.has(sequence):
            return self.beams.fail(sequence)
        self.pool.remove(sequence)
        return sequence.terminal(FinishReason.ERROR, now, error=NOT_FINITE)

    def _token_output(
        self, sequence: Sequence, row: int, computed: ModelOutput, sampled: SampledTokens, now: float
    ) -> EngineOutput:
        """Append the sampled tokens up to the first that ends the sequence, and the tokens that its grammar forces."""
        if sequence.grammar is not None and sequence.grammar.error is not None:  # so the token was chosen without it
            return self._fail_grammar(sequence, sequence.grammar.error, now)
        first = sequence.num_output_tokens
        token_ids, reason = self._append_sampled(sequence, sampled.token_ids[row], computes_all=row in sampled.logprobs)
        self.stats.generation_tokens += len(token_ids)
        if sequence.first_token is None:
            sequence.first_token = now
        logprobs = sampled.logprobs[row][: len(token_ids)] if row in sampled.logprobs else ()
        prompt_logprobs = _take_prompt_logprobs(sequence, computed) if sequence.needs_prompt_logprobs else ()
        if reason is None:
            routing, prompt_routing = sequence.returned_routing(len(token_ids), first)
            return EngineOutput(
                sequence.request_id,
                token_ids,
                logprobs,
                prompt_logprobs,
                sequence.num_cached_tokens,
                routing=routing,
                prompt_routing=prompt_routing,
            )
        self.pool.cache.save_state(sequence)
        self.pool.remove(sequence)
        output = sequence.terminal(reason, now, token_ids=token_ids, logprobs=logprobs, prompt_logprobs=prompt_logprobs)
        return sequence.with_routing(output, first)

    def _prompt_output(self, sequence: Sequence, computed: ModelOutput, now: float) -> list[EngineOutput]:
        """The output of a sequence that generates nothing, once its whole prompt is computed."""
        if not sequence.is_decoding or sequence.sampling.max_tokens:
            sequence.prompt_logprobs.extend(computed.prompt_logprobs.get(sequence.request_id, ()))
            return []
        self.pool.remove(sequence)
        if isinstance(sequence.request, EmbedRequest):
            return [sequence.terminal(FinishReason.STOP, now, embedding=computed.embeddings[sequence.request_id])]
        prompt_logprobs = _take_prompt_logprobs(sequence, computed)
        output = sequence.terminal(FinishReason.LENGTH, now, prompt_logprobs=prompt_logprobs)
        return [sequence.with_routing(output)]

    def _fail_grammar(self, sequence: Sequence, error: str, now: float) -> EngineOutput:
        assert self._grammars is not None
        self._grammars.forget(sequence.sampling.grammar or "")
        self.pool.remove(sequence)
        return sequence.terminal(FinishReason.ERROR, now, error=error, is_request_error=True)

    def _append_sampled(
        self, sequence: Sequence, token_ids: tuple[int, ...], *, computes_all: bool
    ) -> tuple[tuple[int, ...], FinishReason | None]:
        """Append sampled tokens and those that the grammar forces after them; see `_append`.

        Forced tokens are not appended where something of each token is asked for: the network has not computed them.
        """
        token_ids, reason = self._append(sequence, token_ids)
        grammar = sequence.grammar
        if grammar is None:
            return token_ids, reason
        if reason is None and not computes_all and sequence.request.routing.returned is None:
            forced, reason = self._append(sequence, grammar.forced_tokens())
            token_ids += forced
        return token_ids, FinishReason.STOP if grammar.is_complete else reason

    def _append(self, sequence: Sequence, token_ids: tuple[int, ...]) -> tuple[tuple[int, ...], FinishReason | None]:
        """Append tokens up to the first that ends the sequence. Returns these, and why it ends; None if it goes on."""
        reason = None
        for count, token_id in enumerate(token_ids, 1):
            if (reason := self._finish_reason(sequence, token_id, count)) is not None:
                token_ids = token_ids[:count]
                break
        sequence.append(token_ids)
        return token_ids, reason

    def _finish_reason(self, sequence: Sequence, token_id: int, count: int) -> FinishReason | None:
        """Why a sequence ends with `token_id`, the last of `count` new tokens."""
        sampling = sequence.sampling
        if token_id in sampling.stop_token_ids or (token_id in self.config.eos_token_ids and not sampling.ignore_eos):
            return FinishReason.STOP
        length = len(sequence.tokens) + count
        if length - sequence.prompt_len >= sampling.max_tokens or length >= self.config.max_model_len:
            return FinishReason.LENGTH
        return None


def _take_prompt_logprobs(sequence: Sequence, computed: ModelOutput) -> tuple[TokenLogprobs, ...]:
    """All log-probabilities of the prompt, those of earlier steps included; they are sent once."""
    found = (*sequence.prompt_logprobs, *computed.prompt_logprobs.get(sequence.request_id, ()))
    sequence.prompt_logprobs.clear()
    sequence.needs_prompt_logprobs = False
    return found

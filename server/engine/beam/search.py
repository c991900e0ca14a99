"""Requests with beam search: their beams advance together, and each request ends once, with its best beam.

For the scheduler a beam is a sequence like any other. This module adds the differences: no beam gets a token before all
beams of its group have offered theirs; then the group (`group.py`) chooses, so some beams are forked and some dropped;
and all beams of a group end together.
"""

from collections.abc import Callable
from dataclasses import replace

from server.engine.beam.group import BeamAnswer, BeamGroup, Continuation
from server.engine.config import EngineConfig
from server.engine.sequence import Sequence, SequenceStatus
from server.engine.sequence_pool import SequencePool
from server.engine.step import NOT_FINITE, SchedulerStats
from server.engine.types import EngineOutput, FinishReason, GenerateRequest, TokenLogprobs

NO_ANSWER = BeamAnswer((), ())


class BeamSearch:
    """All groups of beams; their sequences are in `pool` together with those of other requests."""

    def __init__(
        self, config: EngineConfig, pool: SequencePool, stats: SchedulerStats, clock: Callable[[], float]
    ) -> None:
        self._config, self._pool, self._stats, self._clock = config, pool, stats, clock
        self._groups: dict[str, BeamGroup] = {}  # by the id of the request
        self._group_of: dict[Sequence, BeamGroup] = {}

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._groups

    def __len__(self) -> int:
        """How many sequences are beams."""
        return len(self._group_of)

    def has(self, sequence: Sequence) -> bool:
        """Whether the sequence is a beam."""
        return sequence in self._group_of

    def request_of(self, sequence: Sequence) -> str:
        """The id of the request that a beam belongs to; of another sequence, its own id."""
        group = self._group_of.get(sequence)
        return group.request.request_id if group else sequence.request_id

    def open(self, request: GenerateRequest) -> GenerateRequest:
        """Start a group. Returns the request of its first beam."""
        group = self._groups[request.request_id] = BeamGroup(request, self._config.eos_token_ids)
        return group.member_request()

    def start(self, request_id: str, sequence: Sequence) -> None:
        """Add the first beam of a group."""
        group = self._groups[request_id]
        group.scores[sequence] = 0.0
        self._group_of[sequence] = group

    def offer(self, sequence: Sequence, candidates: TokenLogprobs) -> None:
        """Record the next tokens that a beam could take; it waits until all beams of its group have offered theirs."""
        sequence.is_held = True
        self._group_of[sequence].offer(sequence, candidates)

    def advance(self) -> list[EngineOutput]:
        """Continue the groups whose beams have all offered their next tokens.

        Returns the outputs of those that end, and one without a token for each whose prompt is computed: it does not
        wait any more.
        """
        complete = [group for group in self._groups.values() if group.is_complete]
        return [output for group in complete if (output := self._advance(group)) is not None]

    def abort(self, request_id: str) -> EngineOutput:
        """End a request and drop all its beams."""
        return self._end(self._groups[request_id], FinishReason.ABORT)

    def time_out(self, request_id: str) -> EngineOutput:
        """End a request with what its likeliest beam has so far."""
        group = self._groups[request_id]
        best = max(group.scores, key=lambda sequence: group.scores[sequence])
        answer = BeamAnswer(tuple(best.tokens[best.prompt_len :]), tuple(best.routing))
        return self._end(group, FinishReason.TIMEOUT, answer=answer)

    def fail(self, sequence: Sequence, error: str = NOT_FINITE) -> EngineOutput:
        """End the request of a beam whose step failed."""
        return self._end(self._group_of[sequence], FinishReason.ERROR, error)

    def clear(self) -> None:
        """Forget all groups."""
        self._groups.clear()
        self._group_of.clear()

    def _advance(self, group: BeamGroup) -> EngineOutput | None:
        """Continue with the best continuations, or end the group if there are none, or the length is reached."""
        chosen = group.choose()
        some = next(iter(group.scores))
        length = len(some.tokens) + 1
        may_continue = length - some.prompt_len < some.sampling.max_tokens and length < self._config.max_model_len
        if chosen and may_continue:
            is_first = some.num_output_tokens == 0
            self._continue(group, chosen)
            return EngineOutput(group.request.request_id, ()) if is_first else None
        answer, ended = group.answer(chosen)
        self._stats.generation_tokens += len(answer.token_ids)
        return self._end(group, FinishReason.STOP if ended else FinishReason.LENGTH, answer=answer)

    def _continue(self, group: BeamGroup, chosen: list[Continuation]) -> None:
        """A beam keeps its best continuation; it is forked for the others. Beams without a continuation are dropped."""
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
        for parent, token in heirs.items():  # after the forks, which end with other tokens
            parent.append((token,))
            parent.is_held = False
            if parent.status is SequenceStatus.WAITING:
                self._pool.wait(parent)

    def _fork(self, group: BeamGroup, parent: Sequence, token: int) -> Sequence:
        """One more beam, which runs with a copy of its parent's memory, or waits if no memory is free."""
        child = parent.fork(group.member_request(), self._pool.next_number(), token)
        self._group_of[child] = group
        self._pool.by_id[child.request_id] = child
        if parent.status is SequenceStatus.RUNNING and self._pool.cache.fork(parent, child):
            child.num_computed_tokens = child.prefill_end = parent.num_computed_tokens
            self._pool.run(child)
        else:
            self._pool.wait(child)
        return child

    def _end(
        self, group: BeamGroup, reason: FinishReason, error: str | None = None, *, answer: BeamAnswer = NO_ANSWER
    ) -> EngineOutput:
        """Drop all beams. Returns the last output of the request, which has all its tokens."""
        some = next(iter(group.scores))
        for sequence in group.scores:
            self._drop(sequence)
        del self._groups[group.request.request_id]
        now = self._clock()
        if answer.token_ids:
            some.first_token = now  # the first token is not known before the last
        some.routing[:] = answer.routing
        output = some.with_routing(some.terminal(reason, now, token_ids=answer.token_ids, error=error))
        return replace(output, request_id=group.request.request_id)

    def _drop(self, sequence: Sequence) -> None:
        del self._group_of[sequence]
        self._pool.remove(sequence)

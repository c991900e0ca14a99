"""The requests with beams: their sequences step side by side, and the request ends once, with the best of them.

To the scheduler a beam is a sequence like any other. Here is what sets beams apart: none gets a token before all of its
group have offered theirs (`beam.py` chooses), some are copied then and some dropped, and they end together.
"""

from collections.abc import Callable
from dataclasses import replace

from server.engine.beam.group import BeamGroup, Continuation
from server.engine.config import EngineConfig
from server.engine.sequence import Sequence, SequenceStatus
from server.engine.sequence_pool import SequencePool
from server.engine.step import NOT_FINITE, SchedulerStats
from server.engine.types import EngineOutput, FinishReason, GenerateRequest, TokenLogprobs


class BeamSearch:
    """All groups of beams, whose sequences are in `queues` with those of other requests."""

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
        """The id of the request that a beam belongs to; a sequence's own if it is none."""
        group = self._group_of.get(sequence)
        return group.request.request_id if group else sequence.request_id

    def open(self, request: GenerateRequest) -> GenerateRequest:
        """A new group; the request of its first beam."""
        group = self._groups[request.request_id] = BeamGroup(request, self._config.eos_token_ids)
        return group.member_request()

    def start(self, request_id: str, sequence: Sequence) -> None:
        """The first beam of a group."""
        group = self._groups[request_id]
        group.scores[sequence] = 0.0
        self._group_of[sequence] = group

    def offer(self, sequence: Sequence, candidates: TokenLogprobs) -> None:
        """Enter the next tokens that a beam could take; it waits until all beams of its group have offered theirs."""
        sequence.is_held = True
        self._group_of[sequence].offer(sequence, candidates)

    def advance(self) -> list[EngineOutput]:
        """Let the groups go on of which all beams have offered; the answers of those that are done."""
        complete = [group for group in self._groups.values() if group.is_complete]
        return [output for group in complete if (output := self._advance(group)) is not None]

    def abort(self, request_id: str) -> EngineOutput:
        """End a request with all of its beams."""
        return self._end(self._groups[request_id], FinishReason.ABORT)

    def fail(self, sequence: Sequence, error: str = NOT_FINITE) -> EngineOutput:
        """End the request of a beam whose step failed."""
        return self._end(self._group_of[sequence], FinishReason.ERROR, error)

    def clear(self) -> None:
        """Forget all groups."""
        self._groups.clear()
        self._group_of.clear()

    def _advance(self, group: BeamGroup) -> EngineOutput | None:
        """Let the best continuations go on; the group's answer when none does, or none may."""
        chosen = group.choose()
        some = next(iter(group.scores))
        length = len(some.tokens) + 1
        may_go_on = length - some.prompt_len < some.sampling.max_tokens and length < self._config.max_model_len
        if chosen and may_go_on:
            self._go_on(group, chosen)
            return None
        token_ids, ended = group.answer(chosen)
        self._stats.generation_tokens += len(token_ids)
        return self._end(group, FinishReason.STOP if ended else FinishReason.LENGTH, token_ids=token_ids)

    def _go_on(self, group: BeamGroup, chosen: list[Continuation]) -> None:
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
            parent.append((token,))
            parent.is_held = False
            if parent.status is SequenceStatus.WAITING:
                self._pool.wait(parent)

    def _fork(self, group: BeamGroup, parent: Sequence, token: int) -> Sequence:
        """One more beam, running on a copy of its parent's memory, or waiting like a preempted one without room."""
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
        self, group: BeamGroup, reason: FinishReason, error: str | None = None, *, token_ids: tuple[int, ...] = ()
    ) -> EngineOutput:
        """Free all beams; the one output of the request."""
        some = next(iter(group.scores))
        for sequence in group.scores:
            self._drop(sequence)
        del self._groups[group.request.request_id]
        now = self._clock()
        if token_ids:
            some.first_token = now  # the first is not known before the last
        output = some.terminal(reason, now, token_ids=token_ids, error=error)
        return replace(output, request_id=group.request.request_id)

    def _drop(self, sequence: Sequence) -> None:
        del self._group_of[sequence]
        self._pool.remove(sequence)

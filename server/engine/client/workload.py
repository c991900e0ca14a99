"""The requests that an engine has, those that wait and those that run, and how much work they are."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from server.engine.types import EngineRequest, SchedulingParams

MAX_COUNTED_OUTPUT = 256  # tokens: most answers end before their limit


@dataclass(frozen=True, slots=True)
class Load:
    """An amount of requests, with their prompt tokens and their work in generated tokens."""

    count: int = 0
    tokens: int = 0
    work: float = 0.0

    def __add__(self, other: "Load") -> "Load":
        return Load(self.count + other.count, self.tokens + other.tokens, self.work + other.work)

    def __sub__(self, other: "Load") -> "Load":
        return Load(self.count - other.count, self.tokens - other.tokens, self.work - other.work)

    def at_most(self, factor: int, other: "Load") -> "Load":
        """Each amount, or that of `other` times the factor if it is less."""
        return Load(
            min(self.count, factor * other.count),
            min(self.tokens, factor * other.tokens),
            min(self.work, factor * other.work),
        )


NO_LOAD = Load()


@dataclass(slots=True)
class RunningWork:
    """The work of a request that runs, that of its answer alone, and what is left of it."""

    work: float
    answer: float
    remaining: float


class Workload:
    """What waits, by priority and tenant, and what runs.

    The work of a request is its number of tokens: those of the prompt at `prompt_token_cost` each, and as many of the
    output as it may have, up to MAX_COUNTED_OUTPUT.
    """

    def __init__(self, max_running: int, prompt_token_cost: float) -> None:
        self._max_running, self._prompt_token_cost = max_running, prompt_token_cost
        self._waiting: dict[str, EngineRequest] = {}
        self._running: dict[str, RunningWork] = {}
        self._lanes: dict[tuple[int, str], Load] = {}  # what waits, by priority and tenant

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def num_unfinished(self) -> int:
        return len(self._waiting) + len(self._running)

    def is_waiting(self, request_id: str) -> bool:
        return request_id in self._waiting

    def load_of(self, request: EngineRequest) -> Load:
        tokens = len(request.prompt_token_ids)
        return Load(1, tokens, tokens * self._prompt_token_cost + _counted_output(request))

    def add(self, request: EngineRequest) -> None:
        """A new request, which waits."""
        self._waiting[request.request_id] = request
        lane = _lane(request)
        self._lanes[lane] = self._lanes.get(lane, NO_LOAD) + self.load_of(request)

    def start(self, request_id: str) -> Load:
        """A waiting request runs now, with all its work before it."""
        request = self.withdraw(request_id)
        self._running[request_id] = self._begin(request)
        return self.load_of(request)

    def complete_prompt(self, request_id: str, num_tokens: int) -> float:
        """Count the prompt of a running request as computed; returns the work that this was."""
        return self.complete(request_id, num_tokens * self._prompt_token_cost)

    def complete(self, request_id: str, work: float) -> float:
        """Count work of a running request as done, at most what it has left; returns how much that was."""
        running = self._running[request_id]
        done = min(work, running.remaining)
        running.remaining -= done
        return done

    def finish(self, request_id: str) -> float:
        """A running request has ended; returns the work that it had left, of which no more is to come."""
        return self._running.pop(request_id).remaining

    def withdraw(self, request_id: str) -> EngineRequest:
        """A waiting request has ended, or begins to run."""
        request = self._waiting.pop(request_id)
        lane = _lane(request)
        if (load := self._lanes.pop(lane) - self.load_of(request)).count:
            self._lanes[lane] = load
        return request

    def ahead(self, scheduling: SchedulingParams) -> Load:
        """What has its turn before a new request; of each tenant as much as of the request's own."""
        urgent = [(tenant, load) for (priority, tenant), load in self._lanes.items() if priority <= scheduling.priority]
        total = sum((load for _, load in urgent), NO_LOAD)
        num_tenants = len({tenant for tenant, _ in urgent} | {scheduling.tenant})
        if num_tenants == 1:
            return total
        own = sum((load for tenant, load in urgent if tenant == scheduling.tenant), NO_LOAD)
        return total.at_most(num_tenants, own)

    def num_queued(self, ahead: Load) -> int:
        """How many of those ahead wait for a slot of the batch; negative if slots are free."""
        return len(self._running) + ahead.count - self._max_running

    def in_slots(self) -> Iterator[RunningWork]:
        """What runs, and what is about to start in free slots."""
        yield from self._running.values()
        for request in islice(self._waiting.values(), max(self._max_running - len(self._running), 0)):
            yield self._begin(request)

    def _begin(self, request: EngineRequest) -> RunningWork:
        """A request that starts, with all its work before it."""
        work = self.load_of(request).work
        return RunningWork(work, _counted_output(request), work)


def _counted_output(request: EngineRequest) -> int:
    return min(request.sampling.max_tokens, MAX_COUNTED_OUTPUT)


def _lane(request: EngineRequest) -> tuple[int, str]:
    return request.scheduling.priority, request.scheduling.tenant

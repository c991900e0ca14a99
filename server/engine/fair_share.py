"""Fairness between tenants: the one that was served less comes first, so a flood of one does not delay the others.

The algorithm is the virtual token counter of Sheng et al., "Fairness in Serving Large Language Models" (arXiv
2401.00588): fair queueing for work whose length is not known beforehand. Prompt and generated tokens count alike.
"""

from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable
from heapq import heapify, heappop, heappush
from itertools import takewhile

from server.engine.sequence import Sequence

RECENT_SECONDS = 30.0


class FairShare:
    """Counts the tokens of each tenant, and orders sequences so that all tenants advance alike."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._served: dict[str, float] = {}  # who joined last is last
        self._last_active: dict[str, float] = {}  # the time; who was active longest ago is first

    def may_be_joined(self, sequences: Collection[Sequence]) -> bool:
        """Whether a tenant is likely to send a request soon, whose first token a long step would delay.

        Such a tenant had work within RECENT_SECONDS, and has less than half of its share of `sequences`, which are all
        that wait or run.
        """
        if len(self._last_active) < 2:
            return False
        counts = Counter(sequence.tenant for sequence in sequences)
        return any(2 * counts[tenant] * len(self._last_active) < len(sequences) for tenant in self._last_active)

    def join(self, tenant: str, others: Collection[str]) -> None:
        """A tenant has work again. It cannot claim now what it did not use while it had none.

        `others` are the tenants that have work. Tenants that have none and would not gain by their past are forgotten;
        after a time when nobody had work, all begin alike.
        """
        if not others:
            self._served.clear()
        least = min((self._served.get(other, 0.0) for other in others), default=0.0)
        self._served = {name: served for name, served in self._served.items() if name in others or served > least}
        self._served[tenant] = max(self._served.pop(tenant, 0.0), least)
        self._are_active([tenant])

    def charge(self, sequences: Iterable[Sequence]) -> None:
        """Count the tokens that a step computes."""
        tenants = set()
        for sequence in sequences:
            self._served[sequence.tenant] += sequence.num_scheduled_tokens
            tenants.add(sequence.tenant)
        self._are_active(tenants)

    def overdue(self, prompts: list[Sequence], running: list[Sequence]) -> str | None:
        """The tenant whose prompts should not wait for what runs, if any.

        It was served no more than the others and decodes fewer sequences than its share, if any decode; none of the
        others is more urgent.
        """
        if not running or len(self._served) < 2:
            return None
        tenants = {sequence.tenant for sequence in running}
        least = min(self._served[tenant] for tenant in tenants)
        most_urgent = min(sequence.priority for sequence in running)
        decoding = Counter(sequence.tenant for sequence in running if sequence.is_decoding)
        asking = {prompt.tenant for prompt in prompts if prompt.priority <= most_urgent}
        share = decoding.total() / len(tenants | asking)
        overdue = {
            tenant for tenant in asking if self._served[tenant] <= least and (decoding[tenant] < share or not decoding)
        }
        return next((tenant for tenant in reversed(self._served) if tenant in overdue), None)

    def order(self, sequences: list[Sequence]) -> list[Sequence]:
        """The sequences in the order in which tenants deserve them. Those of one tenant keep their order.

        `sequences` must be sorted by priority. A more urgent one comes first, whoever it belongs to. Of tenants that
        were served alike, the one that joined last comes first.
        """
        queues: dict[str, deque[Sequence]] = {}
        for sequence in sequences:
            queues.setdefault(sequence.tenant, deque()).append(sequence)
        if len(queues) < 2:
            return sequences
        heap = [
            (queues[tenant][0].priority, served, -position, tenant)
            for position, (tenant, served) in enumerate(self._served.items())
            if tenant in queues
        ]
        heapify(heap)
        ordered: list[Sequence] = []
        while heap:
            _, served, position, tenant = heappop(heap)
            queue = queues[tenant]
            ordered.append(queue.popleft())
            if queue:
                heappush(heap, (queue[0].priority, served + ordered[-1].num_tokens_left, position, tenant))
        return ordered

    def _are_active(self, tenants: Iterable[str]) -> None:
        now = self._clock()
        for tenant in tenants:
            self._last_active.pop(tenant, None)
            self._last_active[tenant] = now
        for tenant in list(takewhile(lambda name: now - self._last_active[name] > RECENT_SECONDS, self._last_active)):
            del self._last_active[tenant]


def victim(running: list[Sequence], waiting: Sequence) -> Sequence | None:
    """The running sequence, if any, that may be preempted so that `waiting` can run.

    That is the last of the least urgent ones if they are less urgent, otherwise the last one of the tenant that runs
    most, if that runs more even afterwards. `running` is in queue order.
    """
    if not running or running[-1].priority > waiting.priority:
        return running[-1] if running else None
    counts = Counter(sequence.tenant for sequence in running)
    tenant, most = counts.most_common(1)[0]
    if most < counts[waiting.tenant] + 2:
        return None
    last = next(sequence for sequence in reversed(running) if sequence.tenant == tenant)
    return last if last.priority >= waiting.priority else None

"""Fairness between tenants: the one that was served less comes first, so a flood of one does not delay the others.

The algorithm is the virtual token counter of Sheng et al., "Fairness in Serving Large Language Models" (arXiv
2401.00588): fair queueing for work whose length is not known beforehand. Prompt and generated tokens count alike.
"""

from collections import Counter, deque
from collections.abc import Collection, Iterable
from heapq import heapify, heappop, heappush

from server.engine.sequence import Sequence


class FairShare:
    """Counts the tokens of each tenant, and orders sequences so that all tenants advance alike."""

    def __init__(self) -> None:
        self._served: dict[str, float] = {}  # who joined last is last

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

    def charge(self, sequences: Iterable[Sequence]) -> None:
        """Count the tokens that a step computes."""
        for sequence in sequences:
            self._served[sequence.tenant] += sequence.num_scheduled_tokens

    def overdue(self, prompts: list[Sequence], decoding: list[Sequence]) -> list[Sequence]:
        """The prompts that should not wait for what decodes: of tenants that were served no more than the others.

        Empty if what decodes is more urgent, or all of the same tenant.
        """
        if not decoding or len(self._served) < 2:
            return []
        others = {sequence.tenant for sequence in decoding}
        most_urgent = min(sequence.priority for sequence in decoding)
        least = min(self._served[tenant] for tenant in others)
        return [
            prompt
            for prompt in prompts
            if prompt.priority <= most_urgent and self._served[prompt.tenant] <= least and others != {prompt.tenant}
        ]

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

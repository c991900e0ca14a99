"""Where a prompt should go: to the replica that was sent its longest prefix, unless that one has too much to do.

What replicas have cached is not asked but assumed from what was sent to them, as the endpoint picker of the Gateway API
inference extension does. The bound on the load is that of consistent hashing with bounded loads (Mirrokni, Thorup and
Zadimoghaddam 2016, arXiv:1608.01350).
"""

import hashlib
import os
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from heapq import nlargest
from typing import Any

from pydantic_core import from_json

BLOCK_CHARACTERS = 64  # about 16 tokens, a block of the engine's cache
MAX_BLOCKS = 256
HEAD_BYTES = 128 * 1024  # of a body are looked at, which takes about a millisecond
# in the order in which templates put them into prompts; before them, what keeps equal texts apart
FIELDS = ("model", "cache_salt", "tools", "system", "instructions", "messages", "input", "prompt", "text")

NOBODY: frozenset[str] = frozenset()


def prefix_digests(body: bytes) -> tuple[bytes, ...]:
    """Chained digests of the blocks of the text that a request is about; () if the body is not a JSON object."""
    try:
        fields = from_json(body[:HEAD_BYTES].decode("utf-8", "ignore"), allow_partial="trailing-strings")
    except ValueError:
        return ()
    if not isinstance(fields, dict):
        return ()
    text = _beginning(_strings([fields.get(name) for name in FIELDS]), BLOCK_CHARACTERS * MAX_BLOCKS)
    digests, before = [], b""
    for start in range(0, len(text) - BLOCK_CHARACTERS + 1, BLOCK_CHARACTERS):
        block = text[start : start + BLOCK_CHARACTERS].encode("utf-8", "surrogatepass")
        before = hashlib.blake2b(before + block, digest_size=8).digest()
        digests.append(before)
    return tuple(digests)


def _strings(value: Any) -> Iterator[str]:
    """The texts and token ids in a JSON value, in their order."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            stack.extend(reversed(item.values()))
        elif isinstance(item, list):
            stack.extend(reversed(item))
        elif item is not None:
            yield str(item)


def _beginning(texts: Iterator[str], characters: int) -> str:
    taken, length = [], 0
    for text in texts:
        taken.append(text)
        length += len(text) + 1
        if length > characters:
            break
    return "\n".join(taken)[:characters]


class PrefixIndex:
    """Which replicas were sent which prefixes. The blocks that were not sent for longest are forgotten first."""

    def __init__(self, capacity: int) -> None:
        """`capacity`: blocks to remember, about 500 bytes each."""
        self._capacity = capacity
        self._replicas: OrderedDict[bytes, frozenset[str]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._replicas)

    def record(self, digests: Sequence[bytes], replica: str) -> None:
        """The prefix was sent to `replica`."""
        for digest in reversed(digests):  # so that a first block, without which nothing is found, is forgotten last
            self._replicas[digest] = self._replicas.pop(digest, NOBODY) | {replica}
        while len(self._replicas) > self._capacity:
            self._replicas.popitem(last=False)

    def longest_match(self, digests: Sequence[bytes], among: Collection[str]) -> frozenset[str]:
        """Of the replicas `among`, those that were sent the longest prefix; none if none was sent the first block."""
        matching, best = frozenset(among), NOBODY
        for digest in digests:
            matching &= self._replicas.get(digest, NOBODY)
            if not matching:
                break
            best = matching
        return best

    def keep(self, alive: Collection[str]) -> None:
        """Forget all replicas that are not `alive`."""
        known = frozenset(alive)
        kept = ((digest, replicas & known) for digest, replicas in self._replicas.items())
        self._replicas = OrderedDict((digest, replicas) for digest, replicas in kept if replicas)


class PrefixAffinity:
    """Ranks replicas for a request by their prefixes and loads."""

    def __init__(self, max_load_factor: float = 1.25, light_load: int = 8, capacity: int = 2**17) -> None:
        """A replica is overloaded when it has more than `light_load` requests and more than `max_load_factor` times the
        mean of all replicas. `capacity`: see PrefixIndex.
        """
        self.index = PrefixIndex(capacity)
        self._max_load_factor = max_load_factor
        self._light_load = light_load

    def rank(self, digests: Sequence[bytes], loads: Mapping[str, int]) -> list[list[str]]:
        """First the replicas with the longest prefix, then two others; those in a list are equally good.

        `loads` has the number of requests of every replica. The two others depend on how the prompt begins, so that
        routers that do not know of each other send a new prefix to the same place; the less loaded one of two is nearly
        as good as that of all (the power of two choices).
        """
        most = max(self._light_load, self._max_load_factor * sum(loads.values()) / max(1, len(loads)))
        free = [replica for replica, load in loads.items() if load <= most]
        beginning = digests[0] if digests else os.urandom(8)
        others = nlargest(2, free, key=lambda replica: _rendezvous(beginning, replica))
        return [sorted(self.index.longest_match(digests, free)), others]


def _rendezvous(beginning: bytes, replica: str) -> bytes:
    """Looks random for each pair, and is the same in all processes."""
    return hashlib.blake2b(beginning + replica.encode(), digest_size=8).digest()

"""The limits of an API key: requests and tokens per minute, and concurrent requests."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from server.errors import RateLimitError

CONCURRENCY_RETRY_SECONDS = 1.0  # when one of the running requests may have ended


class KeyLimits(Protocol):
    """None: no limit."""

    @property
    def name(self) -> str: ...

    @property
    def requests_per_minute(self) -> int | None: ...

    @property
    def tokens_per_minute(self) -> int | None: ...

    @property
    def max_concurrent_requests(self) -> int | None: ...


@dataclass(slots=True)
class LeakyBucket:
    """An amount that drains by `limit` a minute and must not exceed it, so a burst of a minute's amount is allowed.

    The limit is given with each call, because it may change while the server runs.
    """

    amount: float = 0.0
    time: float = 0.0  # monotonic seconds

    def wait(self, more: float, limit: int, now: float) -> float:
        """Seconds until there is room for `more`."""
        self._drain(limit, now)
        return max(0.0, (self.amount + more - limit) * 60 / limit)

    def add(self, more: float, limit: int, now: float) -> None:
        """Fill in so much, also above the limit."""
        self._drain(limit, now)
        self.amount += more

    def _drain(self, limit: int, now: float) -> None:
        self.amount = max(0.0, self.amount - (now - self.time) * limit / 60)
        self.time = now


class KeyUsage:
    """What one key uses at the moment.

    How many tokens a request takes is known after it was accepted. So requests are refused while the tokens of earlier
    ones exceed the limit, and the excess delays the next.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.running = 0
        self._clock = clock
        self._requests, self._tokens = LeakyBucket(), LeakyBucket()

    @contextmanager
    def request(self, limits: KeyLimits) -> Iterator[None]:
        """Wraps the handling of a request. Raises RateLimitError if it exceeds a limit; then it does not count."""
        if (limit := limits.max_concurrent_requests) is not None and self.running >= limit:
            raise _too_much(limits, f"{limit} concurrent requests", CONCURRENCY_RETRY_SECONDS)
        self.count_request(limits)
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1

    def count_request(self, limits: KeyLimits) -> None:
        """Count a request against the limits per minute alone. Raises RateLimitError; then it does not count."""
        now = self._clock()
        self._check(limits, now)
        if limits.requests_per_minute is not None:
            self._requests.add(1, limits.requests_per_minute, now)

    def add_tokens(self, count: int, limits: KeyLimits) -> None:
        """Count tokens of prompts and answers."""
        if limits.tokens_per_minute is not None:
            self._tokens.add(count, limits.tokens_per_minute, self._clock())

    def _check(self, limits: KeyLimits, now: float) -> None:
        if (limit := limits.requests_per_minute) is not None and (wait := self._requests.wait(1, limit, now)) > 0:
            raise _too_much(limits, f"{limit} requests per minute", wait)
        if (limit := limits.tokens_per_minute) is not None and (wait := self._tokens.wait(1, limit, now)) > 0:
            raise _too_much(limits, f"{limit} tokens per minute", wait)


def _too_much(limits: KeyLimits, limit: str, wait: float) -> RateLimitError:
    return RateLimitError(
        f"The API key '{limits.name}' is limited to {limit}; try again after the time in Retry-After.",
        retry_after=wait,
    )

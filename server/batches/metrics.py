"""Prometheus metrics of batches, read from the records at scrape time."""

from collections import Counter
from collections.abc import Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from server.batches.job import INVALID_INPUT, SERVER_ERROR
from server.batches.runner import BatchRunner
from server.batches.types import BatchStatus

FAILURES = (INVALID_INPUT, "quota_exceeded", "disk_full", "journal_damaged", "io_error", SERVER_ERROR)


class BatchCollector(Collector):
    """Reads a runner and its directory; no disk."""

    def __init__(self, runner: BatchRunner) -> None:
        self._runner = runner

    def describe(self) -> Iterable[Metric]:
        """Empty, as the collector of the engine is."""
        return ()

    def collect(self) -> Iterator[Metric]:
        directory = self._runner.directory
        by_status = Counter(batch.status for batch in directory.batches.all())
        batches = GaugeMetricFamily("routelm:batches", "Batches that are kept, by status.", labels=["status"])
        for status in BatchStatus:
            batches.add_metric([status.value], by_status[status])
        answered = CounterMetricFamily(
            "routelm:batch_requests", "Requests of batches that got their result, by outcome.", labels=["outcome"]
        )
        for succeeded, outcome in ((True, "completed"), (False, "failed")):
            answered.add_metric([outcome], self._runner.counts.answered[succeeded])
        failures = CounterMetricFamily("routelm:batch_failures", "Batches that failed, by reason.", labels=["reason"])
        for reason, count in _by_reason(self._runner.counts.failed).items():
            failures.add_metric([reason], count)
        open_requests = sum(batch.counts.open for batch in directory.batches.unfinished())
        yield from (batches, answered, failures)
        for name, text, value in (
            ("requests_open", "Requests of unfinished batches that have no result yet.", open_requests),
            ("disk_bytes_used", "Bytes of all files and batches.", directory.disk.used),
            ("disk_bytes_capacity", "Bytes that files and batches may take.", directory.disk.max_bytes),
        ):
            yield GaugeMetricFamily(f"routelm:batch_{name}", text, value)


def _by_reason(failed: Counter[str]) -> dict[str, int]:
    """All of FAILURES, so that a scraper sees a 0 before the first one; other codes count as SERVER_ERROR."""
    found = dict.fromkeys(FAILURES, 0)
    for code, count in dict(failed).items():  # a copy: jobs count on while a scrape reads in a thread
        found[code if code in found else SERVER_ERROR] += count
    return found

"""What a server exposes at /metrics, read from a fresh registry of its own."""

import re
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from server.batches.directory import BatchDirectory
from server.batches.metrics import BatchCollector
from server.batches.runner import BatchRunner
from server.batches.types import BatchLimits
from server.engine.types import EngineStats, FinishReason, LayerLoad
from server.generation.stream import Usage
from server.metrics import Metrics
from tests.server.batches.directories import FakeExecutor


def idle_engine() -> EngineStats:
    layer = LayerLoad(layer=0, tokens_per_expert=(1, 1), entropy=0.5, imbalance=0.0)
    counters: dict[str, Any] = dict.fromkeys(
        set(EngineStats.__dataclass_fields__) - {"healthy", "layers", "step_tokens"}, 1
    )
    return EngineStats(**counters, healthy=True, layers=(layer,))


def exposition(accept: str = "text/plain") -> str:
    """What a scraper that sends this Accept header gets."""
    metrics = Metrics("some-model", idle_engine)
    with TemporaryDirectory() as path, closing(BatchDirectory(Path(path), BatchLimits())) as directory:
        metrics.registry.register(BatchCollector(BatchRunner(directory, FakeExecutor(), 1)))
    metrics.keys.accepted("some-key")
    metrics.keys.refused("some-key")
    metrics.keys.add_tokens("some-key", 1, 1)
    metrics.finished(FinishReason.STOP, Usage(1, 1, 0, experts_per_token=2), None)
    text, _ = metrics.exposition(accept)
    return text.decode()


def families() -> dict[str, str]:
    """Name and type of everything the server exposes."""
    return dict(re.findall(r"^# TYPE (\S+) (\w+)$", exposition(), re.MULTILINE))


def series_of(family: str, kind: str) -> set[str]:
    return {f"{family}_{part}" for part in ("bucket", "sum", "count")} if kind == "histogram" else {family}


def server_series() -> set[str]:
    return {series for family, kind in families().items() for series in series_of(family, kind)}

"""Batch directories, batches in them, and an executor without a model."""

import asyncio
import json
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from server.batches.directory import BatchDirectory
from server.batches.executor import BatchResponse
from server.batches.files import FileDescription
from server.batches.runner import BatchRunner
from server.batches.store import BatchDescription
from server.batches.types import Batch, BatchLimits

URL = "/v1/completions"


@dataclass
class FakeExecutor:
    """Answers with the prompt after `seconds`; of a prompt in `statuses`, the next of its statuses comes first."""

    seconds: float = 0.0
    statuses: dict[str, list[int]] = field(default_factory=dict)
    free: bool = True
    answered: Counter[str] = field(default_factory=Counter)
    order: list[str] = field(default_factory=list)
    running: int = 0
    most_running: int = 0

    def is_free(self) -> bool:
        return self.free

    async def __call__(self, owner: str, url: str, body: bytes) -> BatchResponse:
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await asyncio.sleep(self.seconds)
        finally:
            self.running -= 1
        prompt = json.loads(body)["prompt"]
        self.answered[prompt] += 1
        self.order.append(prompt)
        status = (self.statuses.get(prompt) or [200]).pop(0)
        return BatchResponse(status, "id", json.dumps({"text": prompt}).encode(), retry_after=0.001)


def line(custom_id: str, prompt: str | None = None, **changes: Any) -> str:
    request = {"custom_id": custom_id, "method": "POST", "url": URL, "body": {"prompt": prompt or custom_id}}
    return json.dumps(request | changes)


def lines(count: int, prefix: str = "r") -> list[str]:
    return [line(f"{prefix}{number}") for number in range(count)]


def open_directory(path: Path, **limits: Any) -> "closing[BatchDirectory]":
    return closing(BatchDirectory(path, BatchLimits(**limits)))


def add_file(directory: BatchDirectory, content: Iterable[str], owner: str = "") -> str:
    upload = directory.files.begin()
    try:
        upload.write("".join(f"{text}\n" for text in content).encode())
    except BaseException:
        upload.discard()
        raise
    return upload.commit(FileDescription(owner, "in.jsonl", "batch")).id


def description(file_id: str, seconds: int = 3600, **changes: Any) -> BatchDescription:
    values: dict[str, Any] = {"owner": "", "endpoint": URL, "input_file_id": file_id, "completion_window": "1h"}
    values |= {"seconds": seconds}
    return BatchDescription(**(values | changes))


async def run_to_the_end(runner: BatchRunner, content: Iterable[str], **changes: Any) -> Batch:
    """Create a batch, wait until it has ended, and return it."""
    file_id = await asyncio.to_thread(add_file, runner.directory, content)
    batch = await runner.create(description(file_id, **changes))
    await runner.wait(batch.id)
    return runner.directory.batches.at(batch.id)


def output(directory: BatchDirectory, file_id: str | None) -> list[dict[str, Any]]:
    """The lines of an output file."""
    assert file_id is not None
    return [json.loads(text) for text in directory.files.path(file_id).read_text().splitlines()]


def ids(outputs: Iterable[dict[str, Any]]) -> list[str]:
    return [one["custom_id"] for one in outputs]

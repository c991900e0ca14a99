"""kill -9 at random moments: each request has its result exactly once, equal to that of an undisturbed run."""

import random
import time
from pathlib import Path
from typing import Any

import pytest

from tests.server.batches.crash import Client, Life, answers, listening, requests

URL = "/v1/completions"
COUNT = 200


def undisturbed(directory: Path) -> list[tuple[str, Any]]:
    with listening() as (listener, client):
        life = Life(directory, listener)
        try:
            batch = client.finished(client.create(requests(COUNT), URL))
            return answers(client.lines(batch["output_file_id"]))
        finally:
            life.kill()


def live_a_moment(client: Client, batch_id: str, draw: random.Random, most: int) -> dict[str, Any]:
    """Let the server answer a random number of requests, up to `most`, and some random time more."""
    enough, deadline = draw.randrange(most + 1), time.monotonic() + 60
    batch = client.batch(batch_id)
    start = batch["request_counts"]["completed"]
    while batch["request_counts"]["completed"] - start < enough and batch["status"] not in ("completed", "failed"):
        assert time.monotonic() < deadline, batch
        batch = client.batch(batch_id)
    time.sleep(draw.random() * 0.03)
    return batch


def killed_many_times(directory: Path, kills: int, seed: int) -> list[tuple[str, Any]]:
    draw = random.Random(seed)
    with listening() as (listener, client):
        life = Life(directory, listener)
        batch_id = client.create(requests(COUNT), URL)
        for _ in range(kills):
            batch = live_a_moment(client, batch_id, draw, 2 * COUNT * 9 // 10 // kills)
            assert batch["status"] in ("validating", "in_progress"), "killed too late to show anything"
            life.kill()
            life = Life(directory, listener)
        try:
            batch = client.finished(batch_id)
            assert batch["status"] == "completed"
            assert batch["request_counts"] == {"total": COUNT, "completed": COUNT, "failed": 0}
            return answers(client.lines(batch["output_file_id"]))
        finally:
            life.kill()


@pytest.mark.compiled_kernels
@pytest.mark.parametrize("kills", [4, pytest.param(50, marks=pytest.mark.slow)])
def test_each_result_exactly_once_and_equal(tmp_path: Path, kills: int) -> None:
    expected = undisturbed(tmp_path / "undisturbed")
    assert [custom_id for custom_id, _ in expected] == [f"r{number}" for number in range(COUNT)]
    assert len({str(answer) for _, answer in expected}) > COUNT / 2  # the network does not say the same to all
    assert killed_many_times(tmp_path / "killed", kills, seed=kills) == expected


def test_a_batch_is_there_as_soon_as_it_was_accepted(tmp_path: Path) -> None:
    with listening() as (listener, client):
        for _ in range(2):
            life = Life(tmp_path, listener)
            batch_id = client.create(requests(3), URL)
            life.kill()
            life = Life(tmp_path, listener)
            try:
                assert client.finished(batch_id)["status"] == "completed"
            finally:
                life.kill()

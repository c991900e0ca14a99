"""More urgent requests come first, and take the place of less urgent ones; all of them end."""

import pytest

from server.engine import scheduler
from server.engine.engine import Engine
from server.engine.types import FinishReason, SchedulingParams
from tests.server.engine.test_policy import KINDS, Steps
from tests.server.engine.tiny import collect, engine_config, oracle, request, tiny_network

URGENT, BATCH = -1, 10


@pytest.mark.parametrize("kind", KINDS)
def test_urgent_prompts_are_computed_first(kind: str) -> None:
    steps = Steps(kind, max_num_batched_tokens=64)
    for number, priority in enumerate([BATCH, 0, URGENT]):
        steps.add(f"{priority}", 640 - 64 * number, priority=priority)
    started: list[str] = []
    while steps.scheduler.has_unfinished:
        started += [name for name in steps.step() if name not in started]
    assert started == [str(URGENT), "0", str(BATCH)]


def test_a_short_prompt_does_not_overtake_a_more_urgent_long_one() -> None:
    steps = Steps("attention", max_num_batched_tokens=64)
    steps.add("long", 640)
    steps.add("short", 20, priority=BATCH)
    assert steps.step() == {"long": 64}


@pytest.mark.parametrize("kind", KINDS)
def test_urgent_requests_take_the_slots_of_others(kind: str) -> None:
    steps = Steps(kind, slots=4, max_num_batched_tokens=64)
    for number in range(4):
        steps.add(f"batch {number}", 8, 50, priority=BATCH)
    steps.step()
    for number in range(3):
        steps.add(f"chat {number}", 8, 5)
    scheduled = steps.step()
    assert [name for name in scheduled if name.startswith("chat")] == ["chat 0", "chat 1", "chat 2"]
    assert steps.scheduler.stats.preemptions == 3
    while steps.scheduler.has_unfinished:
        steps.step()
    outputs = collect(steps.outputs)  # type: ignore[arg-type]
    assert len(outputs) == 7
    assert all(output.finish_reason is FinishReason.LENGTH for output in outputs.values())


def test_urgent_requests_take_the_memory_of_others() -> None:
    steps = Steps("attention", slots=8, blocks=16, max_num_batched_tokens=256)
    for number in range(2):
        steps.add(f"batch {number}", 100, 20, priority=BATCH)
    steps.step()
    steps.add("chat", 60, 5)
    assert "chat" in steps.step()
    assert steps.scheduler.stats.preemptions == 1
    while steps.scheduler.has_unfinished:
        steps.step()


def test_without_preemption_it_would_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control."""

    monkeypatch.setattr(scheduler, "victim", lambda running, waiting: None)
    steps = Steps(slots=2)
    for number in range(2):
        steps.add(f"batch {number}", 8, 50, priority=BATCH)
    steps.step()
    steps.add("chat", 8, 5)
    assert steps.steps_until("chat") > 40


def test_requests_of_equal_priority_do_not_preempt_each_other() -> None:
    steps = Steps(slots=2)
    for number in range(5):
        steps.add(f"{number}", 8, 5, priority=BATCH)
    while steps.scheduler.has_unfinished:
        steps.step()
    assert steps.scheduler.stats.preemptions == 0


def test_less_urgent_prompts_are_computed_in_small_chunks_beside_urgent_decodes() -> None:
    """As long prompts are beside decodes of the same priority; the urgent prompt gets what it wants at once."""
    steps = Steps("attention")
    steps.add("chat", 8, 100)
    steps.step()
    steps.add("batch", 500, 5, priority=BATCH)
    assert steps.step()["batch"] <= 64
    steps.add("urgent", 3000, 5, priority=URGENT)
    assert steps.step()["urgent"] == 1023


def test_preempted_requests_get_the_same_tokens() -> None:
    network = tiny_network()
    batch = [
        request(f"batch {number}", [5, 6, 7, number], 12, scheduling=SchedulingParams(priority=BATCH))
        for number in range(6)
    ]
    chats = [request(f"chat {number}", [8, 9, number], 6) for number in range(3)]
    engine = Engine(network, engine_config(max_num_seqs=4))
    for asked in batch:
        engine.submit(asked)
    outputs = [output for _ in range(4) for output in engine.step()]
    for asked in chats:
        engine.submit(asked)
    while engine.has_unfinished:
        outputs += engine.step()
    assert engine.stats().preemptions > 0
    joined = collect(outputs)
    for asked in batch + chats:
        assert joined[asked.request_id].token_ids == oracle(network, asked)

"""The load of the last minutes: what is counted, for how long, and that its memory is bounded."""

import tracemalloc

import numpy as np

from server.engine.routing.load_window import MAX_MINUTES, MAX_TASKS, OTHER, LoadWindow
from server.engine.types import TaskLoad


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def pairs(*counts: int) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    return np.array([[[count, 0, 0]] for count in counts])


def test_minutes_are_summed_and_forgotten() -> None:
    clock = Clock()
    window = LoadWindow({5: 3}, clock)
    window.add(["chat", "translate"], [1, 2], pairs(2, 4))
    clock.now = 61.0
    window.add(["chat"], [10], pairs(20))
    assert window.load(1) == (TaskLoad("chat", 10, ((20, 0, 0),)),)
    assert window.load(2) == (TaskLoad("chat", 11, ((22, 0, 0),)), TaskLoad("translate", 2, ((4, 0, 0),)))
    clock.now = 60.0 * MAX_MINUTES
    window.add(["chat"], [1], pairs(1))
    assert window.load(MAX_MINUTES) == (TaskLoad("chat", 11, ((21, 0, 0),)),)


def test_ten_thousand_tasks_leave_the_memory_constant() -> None:
    clock = Clock()
    window = LoadWindow(dict.fromkeys(range(8), 16), clock)
    sizes = []
    tracemalloc.start()
    for number in range(10_000):
        clock.now += 2.0
        window.add([f"task {number}"], [1], np.ones((1, 8, 16), dtype=np.int64))
        if number % 2000 == 1999:
            sizes.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert max(sizes) < 1.1 * sizes[0]
    load = window.load(MAX_MINUTES)
    assert len(load) <= MAX_TASKS + 1
    assert [task.task for task in load] == [OTHER], "the first tasks are long gone"


def test_a_model_without_experts_has_no_load() -> None:
    assert LoadWindow({}).load(5) == ()

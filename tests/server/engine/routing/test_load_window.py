"""The load of the last minutes: what is counted, for how long, and that its memory is bounded."""

import tracemalloc

import numpy as np

from server.engine.routing.load_window import MAX_LABELS, MAX_MINUTES, OTHER, LoadWindow
from server.engine.types import LabelLoad


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
    assert window.load(1) == (LabelLoad("chat", 10, ((20, 0, 0),)),)
    assert window.load(2) == (LabelLoad("chat", 11, ((22, 0, 0),)), LabelLoad("translate", 2, ((4, 0, 0),)))
    clock.now = 60.0 * MAX_MINUTES
    window.add(["chat"], [1], pairs(1))
    assert window.load(MAX_MINUTES) == (LabelLoad("chat", 11, ((21, 0, 0),)),)


def test_ten_thousand_labels_leave_the_memory_constant() -> None:
    clock = Clock()
    window = LoadWindow(dict.fromkeys(range(8), 16), clock)
    sizes = []
    tracemalloc.start()
    for number in range(10_000):
        clock.now += 2.0
        window.add([f"key {number}"], [1], np.ones((1, 8, 16), dtype=np.int64))
        if number % 2000 == 1999:
            sizes.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert max(sizes) < 1.1 * sizes[0]
    assert len(window.load(MAX_MINUTES)) <= MAX_LABELS + 1


def test_labels_that_are_gone_make_place_for_others() -> None:
    clock = Clock()
    window = LoadWindow({0: 3}, clock)
    for number in range(MAX_LABELS + 2):
        window.add([f"key {number}"], [1], pairs(1))
    assert [load.num_tokens for load in window.load(1) if load.label == OTHER] == [2]
    clock.now = 60.0 * MAX_MINUTES
    window.add(["late"], [1], pairs(1))
    assert [load.label for load in window.load(1)] == ["late"]


def test_a_model_without_experts_has_no_load() -> None:
    assert LoadWindow({}).load(5) == ()

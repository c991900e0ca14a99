"""Ctrl-C and SIGTERM: one is a wish, two are an order, and handlers are as before afterwards."""

import signal
import threading

import pytest

from model.training.loop.interruption import interruption

SIGNALS = [signal.SIGINT, signal.SIGTERM]
pytestmark = pytest.mark.usefixtures("signals_of_a_terminal")


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_sets_the_event_and_is_announced(number: signal.Signals) -> None:
    announced: list[bool] = []
    before = signal.getsignal(number)
    with interruption(lambda: announced.append(True)) as stop:
        assert not stop.is_set()
        signal.raise_signal(number)
        assert stop.is_set()
    assert announced == [True]
    assert signal.getsignal(number) is before


def test_the_second_ctrl_c_stops_at_once() -> None:
    with interruption():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_nothing_is_changed_without_a_signal() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with interruption() as stop:
        assert [signal.getsignal(number) for number in SIGNALS] != before
    assert not stop.is_set()
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_another_thread_gets_an_event_that_nothing_sets() -> None:
    found: list[bool] = []

    def work() -> None:
        with interruption() as stop:
            found.append(stop.is_set())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [False]


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with interruption() as stop:
        signal.raise_signal(signal.SIGINT)
        assert not stop.is_set()
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL

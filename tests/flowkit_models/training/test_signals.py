"""Signals: remembered, passed on, and acted on at once where that is safe."""

import os
import signal
import threading

import pytest

from flowkit_models.training import signals as stopping
from flowkit_models.training.signals import Stopped, StopSignals


def send(number):
    os.kill(os.getpid(), number)


def test_the_first_signal_is_remembered_and_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopSignals() as signals:
        assert signals.received is None
        send(signal.SIGTERM)
        send(signal.SIGINT)  # what a launcher passes on
        assert signals.received == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_later_ctrl_c_acts_at_once(monkeypatch) -> None:
    monkeypatch.setattr(stopping, "PATIENCE", -1.0)
    with StopSignals():
        send(signal.SIGTERM)
        send(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_long_work_ends_at_once(number, code) -> None:
    with StopSignals() as signals:
        with pytest.raises(Stopped) as stopped, signals.at_once():
            send(number)
        assert stopped.value.code == code
        with pytest.raises(Stopped), signals.at_once():  # nor does it begin
            raise AssertionError


def test_other_threads_leave_signals_alone() -> None:
    entered = []

    def work():
        with StopSignals() as signals:
            entered.append(signals.received)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert entered == [None]

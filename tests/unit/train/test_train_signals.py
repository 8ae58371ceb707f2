"""Which signals stop a run, and that others keep their handlers."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from isoflop.train.signals import StopRequest, stop_signals


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_asks_for_a_stop_and_its_handler_comes_back_at_once(number: signal.Signals) -> None:
    signal.signal(number, handler := lambda *_: None)
    with StopRequest() as stop:
        os.kill(os.getpid(), number)
        assert stop.number == number
        assert signal.getsignal(number) is handler
    assert signal.getsignal(number) is handler


def test_a_hang_up_that_is_ignored_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    assert signal.SIGHUP not in stop_signals()
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        assert stop.number == 0
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    assert signal.SIGHUP in stop_signals()

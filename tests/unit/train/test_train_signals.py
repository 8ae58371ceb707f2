"""Which signals stop a run, and that others keep their handlers."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from isoflop.train.signals import StopRequest, held_off, stop_signals

WARNINGS = [signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU]


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """As a process starts, whoever started this one."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, *WARNINGS)}
    for number in WARNINGS:
        signal.signal(number, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, *WARNINGS])
def test_a_signal_asks_for_a_stop_and_its_handler_comes_back_at_once(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with StopRequest() as stop:
        os.kill(os.getpid(), number)
        assert stop.number == number
        assert signal.getsignal(number) is before
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", WARNINGS)
@pytest.mark.parametrize("handler", [signal.SIG_IGN, lambda *_: None], ids=["ignored", "handled"])
def test_a_warning_that_somebody_else_sees_to_is_left_to_him(number: signal.Signals, handler: Any) -> None:
    signal.signal(number, handler)
    assert number not in stop_signals()
    with StopRequest() as stop:
        os.kill(os.getpid(), number)
        assert stop.number == 0
    assert signal.getsignal(number) is handler


def test_what_is_being_saved_is_not_interrupted() -> None:
    before = [signal.getsignal(number) for number in stop_signals()]
    with held_off():
        for number in (signal.SIGINT, signal.SIGTERM, *WARNINGS):
            os.kill(os.getpid(), number)
    assert [signal.getsignal(number) for number in stop_signals()] == before

"""Signals ask a run to stop after the present step; a second one stops it at once, but in the middle of saving."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

_WARNINGS = [getattr(signal, name) for name in ("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU") if hasattr(signal, name)]
_ENDS = signal.SIG_DFL


@contextmanager
def held_off() -> Iterator[None]:
    """While entered, no signal of the kind that stops a run has any effect: what is being saved will be whole soon."""
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, signal.SIG_IGN) for number in stop_signals()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stop_signals() -> list[signal.Signals]:
    """The signals that ask this process to save its work and stop: SIGINT, SIGTERM, and any other that would end it.

    A terminal that goes away sends SIGHUP, and batch systems warn by SIGUSR1, SIGUSR2 or SIGXCPU before they kill.
    Where one of these is ignored (``nohup``) or handled already, that is what somebody wants.
    """
    return [signal.SIGINT, signal.SIGTERM, *(number for number in _WARNINGS if signal.getsignal(number) is _ENDS)]


class StopRequest:
    """While entered, ``number`` is the signal that asked for a stop, or 0. Outside the main thread it never is.

    Example:
        >>> with StopRequest() as request:
        ...     request.number
        0
    """

    def __init__(self) -> None:
        self.number = 0
        self._previous: dict[int, object] = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._previous = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._note) for number in stop_signals()}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

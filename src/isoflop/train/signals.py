"""SIGINT, SIGTERM and SIGHUP ask a run to stop after the present step; a second one stops it at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType


def stop_signals() -> list[signal.Signals]:
    """The signals that ask this process to save its work and stop.

    A terminal that goes away sends SIGHUP; whoever started the process so that it ignores that one (``nohup``) wants it
    to go on.
    """
    asked = [signal.SIGINT, signal.SIGTERM]
    hangup = getattr(signal, "SIGHUP", None)  # Windows has none
    if hangup is not None and signal.getsignal(hangup) is not signal.SIG_IGN:
        asked.append(hangup)
    return asked


class StopRequest:
    """While entered, ``number`` is the signal that asked for a stop, or 0. Outside the main thread it never is."""

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

"""The process that serves: its socket, its signals, and its end."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import errno
import math
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import uvicorn

from ..core.errors import UsageError
from .app import Front, application
from .connections import guarded

GRACE = 2.5
"""Seconds in which what is being written may be finished when the server is told to stop."""
END = 4.4
"""Seconds after which the process ends, whatever still hangs."""
HEAD = 64 << 10
"""Bytes of a request's head at most."""


@dataclass(frozen=True)
class Door:
    """Where and how connections are taken.

    Args:
        host: a name or an address.
        port: 0 takes a free one.
        connections: open at once at most.
        idle: seconds in which a connection must have sent a whole request's head.

    Example:
        >>> Door().host
        '127.0.0.1'
    """

    host: str = "127.0.0.1"
    port: int = 8000
    connections: int = 64
    idle: float = 30.0

    @property
    def local(self) -> bool:
        """Whether only this machine can reach it."""
        return self.host in LOCAL

    def open(self) -> socket.socket:
        """The socket, not listening yet: so that a taken port is noticed before models are loaded.

        Raises:
            UsageError: it cannot be had.
        """
        try:
            family, kind, number, _, place = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)[0]
        except OSError as error:
            raise UsageError(f"no such host ({error.strerror})", where=f"--host {self.host}") from error
        found = socket.socket(family, kind, number)
        try:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind(place)
        except OSError as error:
            found.close()
            raise _refused(error, self) from error
        return found


LOCAL = ("127.0.0.1", "localhost", "::1")
"""Hosts that only this machine can reach."""


def _refused(error: OSError, door: Door) -> UsageError:
    where = f"--port {door.port}"
    if error.errno == errno.EADDRINUSE:
        return UsageError(
            f"port {door.port} of {door.host} is taken", where=where, fix="choose another (0: a free one)"
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return UsageError(f"port {door.port} may not be opened", where=where, fix="choose one above 1023")
    return UsageError(f"cannot listen on {door.host} ({error.strerror})", where=f"--host {door.host}")


def _leave(code: int) -> None:
    """End without what Python and torch would clean up: that takes longer than all that went before."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


class _Server(uvicorn.Server):
    """One whose signals are ours."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class HttpServer:
    """The application on a socket, until it is told to stop.

    Args:
        front: its state; its engines are started and stopped with it.
        door: where connections are taken.

    Attributes:
        signal: that ended it; None: something else did.
    """

    def __init__(self, front: Front, door: Door) -> None:
        config = uvicorn.Config(
            application(front),
            http=guarded(door.connections, door.idle),
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="critical",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=math.ceil(GRACE),
            h11_max_incomplete_event_size=HEAD,
        )
        self._front, self._door, self._server = front, door, _Server(config)
        self.signal: int | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        front.connections = lambda: len(self._server.server_state.connections)

    def run(self, opened: socket.socket, ready: Callable[[], None] = lambda: None) -> None:
        """Serve until a signal comes or ``stop`` is called; engines have ended then.

        Args:
            opened: what ``Door.open`` gave; it is closed at the end.
            ready: called when connections are taken.

        Raises:
            UsageError: the port was taken in the meantime.
        """
        try:
            opened.listen(1024)
        except OSError as error:
            raise _refused(error, self._door) from error
        for served in self._front.models:
            served.engine.start()
        asyncio.run(self._serve(opened, ready))

    async def _serve(self, opened: socket.socket, ready: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._loop.add_signal_handler(number, self._told, number)
        serving = asyncio.create_task(self._server.serve([opened]))
        while not self._server.started and not serving.done():
            await asyncio.sleep(0.01)
        ready()
        try:
            await serving
        finally:
            self._stop()
            await asyncio.gather(*(asyncio.to_thread(each.engine.stop, 0) for each in self._front.models))

    def stop(self) -> None:
        """From any thread: take nothing new, finish what can be finished in ``GRACE`` seconds, end the rest."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # it has ended already
                self._loop.call_soon_threadsafe(self._stop)

    def _told(self, number: int) -> None:
        if self.signal is not None:  # told twice: at once
            os._exit(128 + number)
        self.signal = number
        atexit.register(_leave, 128 + number)
        last = threading.Timer(END, os._exit, [128 + number])
        last.daemon = True
        last.start()
        self._stop()

    def _stop(self) -> None:
        if not self._server.should_exit:
            self._server.should_exit = True
            for served in self._front.models:
                threading.Thread(target=served.engine.stop, args=(GRACE,), daemon=True).start()

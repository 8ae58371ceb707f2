"""Connections that are bounded in number and in patience, below uvicorn."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from .problems import Refusal

_TICK = 1.0
"""Seconds between two looks at a connection."""
_LINGER = 5.0
"""Seconds in which a client must take more of what was written when its connection is closed."""
_LAST = 60.0
"""Seconds in which it must have taken all of that."""


def guarded(most: int, idle: float) -> type[asyncio.Protocol]:
    """A protocol for uvicorn.

    Args:
        most: connections that are open at once; others are told so and closed.
        idle: seconds in which a connection must have sent a whole request's head; else it is closed.
    """

    class Guarded(H11Protocol):
        """One connection."""

        _quiet_since = 0.0
        _closing_since = _progress = 0.0
        _unsent = 0
        _watch: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._quiet_since = self.loop.time()
            self._watch = self.loop.call_later(_TICK, self._look)
            if len(self.connections) > most:
                transport.write(_answer(Refusal(503, "Too many connections are open", code="too_many_connections")))
                transport.close()

        def data_received(self, data: bytes) -> None:
            if not self.transport.is_closing():
                super().data_received(data)

        def on_response_complete(self) -> None:
            self._quiet_since = self.loop.time()
            super().on_response_complete()

        def send_400_response(self, msg: str) -> None:
            """In OpenAI's form."""
            if not self.transport.is_closing():
                self.transport.write(_answer(Refusal(400, msg, code="bad_http")))
                self.transport.close()

        def connection_lost(self, exc: Exception | None) -> None:
            if self._watch is not None:
                self._watch.cancel()
            super().connection_lost(exc)

        def _look(self) -> None:
            now = self.loop.time()
            self._watch = self.loop.call_later(_TICK, self._look)
            if self.transport.is_closing():
                left = self.transport.get_write_buffer_size()
                self._closing_since = self._closing_since or now
                if left < self._unsent or not self._progress:
                    self._progress = now
                self._unsent = left
                if now - self._progress > _LINGER or now - self._closing_since > _LAST:
                    self.transport.abort()
            elif (self.cycle is None or self.cycle.response_complete) and now - self._quiet_since > idle:
                self.transport.close()

    return Guarded


def _answer(error: Refusal) -> bytes:
    body = json.dumps(error.body()).encode()
    reason = {400: b"Bad Request", 503: b"Service Unavailable"}[error.status]
    head = b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
    return head % (error.status, reason, len(body)) + body

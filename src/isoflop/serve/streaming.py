"""What goes back to a client: JSON, or events as a text grows."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable
from typing import TYPE_CHECKING, Any

from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

from .answers import WrittenAnswer
from .problems import Refusal, stopping
from .sequence import Failed, News

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send


class Json(JSONResponse):
    """JSON whose texts may hold anything.

    Example:
        >>> Json({"a": "\\ud800"}).body
        b'{"a":"?"}'
    """

    def render(self, content: Any) -> bytes:
        return _encoded(content)


def _encoded(content: Any) -> bytes:
    return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8", "replace")


class Mail:
    """News of a job, from the engine's thread to the event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[list[News]] = asyncio.Queue()

    def deliver(self, news: list[News]) -> None:
        """In the engine's thread: RuntimeError where the loop has ended."""
        self._loop.call_soon_threadsafe(self._queue.put_nowait, news)

    async def news(self, watch: asyncio.Task[None]) -> list[News]:
        """All that has come since, at least something.

        Raises:
            Refusal: the job has failed.
            ClientDisconnect: ``watch`` is done first.
        """
        if self._queue.empty():
            waiting = asyncio.create_task(self._queue.get())
            try:
                await asyncio.wait({waiting, watch}, return_when=asyncio.FIRST_COMPLETED)
                if not waiting.done():
                    raise ClientDisconnect
                found = list(waiting.result())
            finally:
                waiting.cancel()
        else:
            found = []
        while not self._queue.empty():
            found += self._queue.get_nowait()
        for each in found:
            if isinstance(each, Failed):
                raise each.error
        return found


class EventStream(Response):
    """Server-sent events of an answer; the client's going, or its not reading, ends the job."""

    def __init__(
        self,
        answer: WrittenAnswer,
        mail: Mail,
        watch: asyncio.Task[None],
        first: list[News],
        end: contextlib.ExitStack,
    ) -> None:
        super().__init__(media_type="text/event-stream", headers={"cache-control": "no-cache"})
        del self.headers["content-length"]
        self._answer, self._mail, self._watch, self._first, self._end = answer, mail, watch, first, end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._end:
            try:
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                async for piece in self._events():
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            except asyncio.CancelledError:  # the server ends, or the client has not read for too long
                last = {"type": "http.response.body", "body": _event(stopping().body()), "more_body": False}
                await at_last(send(last))
                raise

    async def _events(self) -> AsyncIterator[bytes]:
        news = self._first
        try:
            while True:
                if pieces := b"".join(map(_event, self._answer.chunks(self._answer.take(news)))):
                    yield pieces
                if not self._answer.left:
                    break
                news = await self._mail.news(self._watch)
        except Refusal as error:
            yield _event(error.body())
            return
        if (last := self._answer.last_chunk()) is not None:
            yield _event(last)
        yield b"data: [DONE]\n\n"


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + _encoded(value) + b"\n\n"


async def at_last(sending: Awaitable[None]) -> None:
    """Send something to a client that may not read any more: after a second it is let be."""
    with contextlib.suppress(Exception):
        async with asyncio.timeout(1.0):
            await sending


async def disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass

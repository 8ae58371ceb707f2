"""The HTTP side: OpenAI's paths, each request bounded in size and time, errors in OpenAI's form."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from .answers import WrittenAnswer
from .metrics import CONTENT_TYPE, Book
from .problems import Refusal, failed, stopping, unknown_model
from .requests import ChatRequest, CompletionRequest, GenerationRequest, read
from .sequence import Failed, Job, News
from .served import Asked, ServedModel

if TYPE_CHECKING:
    from starlette.types import Message, Receive, Scope, Send

PATHS = ("/v1/completions", "/v1/chat/completions", "/v1/models", "/health", "/metrics")
_OPEN = ("/health",)
"""Paths that need no key."""
_MARGIN = 5.0
"""Seconds beyond a request's limit in which a client must have taken its answer."""


@dataclass(frozen=True)
class Limits:
    """What a client may ask of the server.

    Args:
        body: bytes of a request.
        body_seconds: in which it must have come.
        seconds: in which a request must be done.
        hosts: names by which the server may be called; empty: any.

    Example:
        >>> Limits().body
        4194304
    """

    body: int = 4 << 20
    body_seconds: float = 20.0
    seconds: float = 300.0
    hosts: tuple[str, ...] = ()


class Front:
    """The application's state, and its answers.

    Args:
        models: what is served.
        limits: of each request.
        key: that clients must give; None: none.
        connections: how many are open.

    Example, with ``served`` a model of bytes, whose engine has not begun:
        >>> Front([served], Limits(), key="secret").healthy
        False
    """

    def __init__(
        self,
        models: Sequence[ServedModel],
        limits: Limits,
        key: str | None = None,
        connections: Callable[[], int] = lambda: 0,
    ) -> None:
        self.models, self.limits, self.key, self.book = list(models), limits, key, Book()
        self.connections = connections

    @property
    def healthy(self) -> bool:
        """Whether every model's engine works and takes requests."""
        return all(served.engine.alive for served in self.models)

    # ------------------------------------------------------------ paths

    async def health(self, request: Request) -> Response:
        """Whether requests are served."""
        return JSONResponse({"status": "ok"}) if self.healthy else JSONResponse({"status": "stopping"}, 503)

    async def metrics(self, request: Request) -> Response:
        """What was done so far."""
        return PlainTextResponse(self.book.text(self.models, self.connections), media_type=CONTENT_TYPE)

    async def list_models(self, request: Request) -> Response:
        """The models that are served."""
        return JSONResponse({"object": "list", "data": [_about(served) for served in self.models]})

    async def one_model(self, request: Request) -> Response:
        """One of them."""
        return JSONResponse(_about(self._named(request.path_params["name"])))

    async def completions(self, request: Request) -> Response:
        """Go on from prompts."""
        return await self._generate(request, CompletionRequest)

    async def chat(self, request: Request) -> Response:
        """Go on in a conversation."""
        return await self._generate(request, ChatRequest)

    # ------------------------------------------------------------ what the last two do

    async def _generate(self, request: Request, kind: type[GenerationRequest]) -> Response:
        body = await self._body(request)
        served, asked = await run_in_threadpool(self._understood, body, kind)
        del body
        answer, mail = WrittenAnswer(served, asked), Mail()
        job = Job(asked.sequences, mail.deliver, self.limits.seconds)
        served.engine.submit(job)
        watch = asyncio.create_task(_disconnected(request.receive))
        stream = False
        try:
            first = await mail.news(watch)
            if asked.request.stream:
                stream = True
                return _Stream(answer, mail, job, watch, first)
            answer.take(first)
            while answer.left:
                answer.take(await mail.news(watch))
            return JSONResponse(await run_in_threadpool(answer.whole))
        finally:
            if not stream:
                job.cancel()
                watch.cancel()

    def _understood(self, body: bytes, kind: type[GenerationRequest]) -> tuple[ServedModel, Asked]:
        request = read(body, kind)
        served = self._named(request.model)
        if isinstance(request, ChatRequest):
            return served, served.chat(request)
        assert isinstance(request, CompletionRequest)
        return served, served.completion(request)

    def _named(self, name: str) -> ServedModel:
        found = next((served for served in self.models if served.name == name), None)
        if found is None:
            raise unknown_model(name[:200], [served.name for served in self.models])
        return found

    async def _body(self, request: Request) -> bytes:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise Refusal(415, "Send the body as JSON, with the header content-type: application/json")
        most = self.limits.body
        told = request.headers.get("content-length", "0")
        if not told.isdecimal() or len(told) > 18 or int(told) > most:
            raise _oversized(most)
        found = bytearray()
        try:
            async with asyncio.timeout(self.limits.body_seconds):
                async for piece in request.stream():
                    found += piece
                    if len(found) > most:
                        raise _oversized(most)
        except TimeoutError:
            what = f"The body did not come within {self.limits.body_seconds:g} seconds"
            raise Refusal(408, what, code="timeout", headers={"connection": "close"}) from None
        return bytes(found)

    # ------------------------------------------------------------ around every request

    def admit(self, scope: Scope) -> None:
        """Refuse whoever may not ask.

        Raises:
            Refusal: the key or the host's name is wrong.
        """
        headers = {name.lower(): value for name, value in scope["headers"]}
        host = headers.get(b"host", b"").decode("latin-1").lower()
        name = host[: host.index("]") + 1] if host.startswith("[") and "]" in host else host.partition(":")[0]
        if self.limits.hosts and name not in self.limits.hosts:
            raise Refusal(403, f"This server is not called {name[:100]!r}", code="unknown_host")
        given = headers.get(b"authorization", b"")
        wanted = f"Bearer {self.key}".encode()
        if self.key is not None and scope["path"] not in _OPEN and not hmac.compare_digest(given, wanted):
            what = "Incorrect API key: give the server's key as a bearer token"
            raise Refusal(401, what, code="invalid_api_key", headers={"www-authenticate": "Bearer"})


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


class _Stream(Response):
    """Server-sent events of an answer; the client's going, or its not reading, ends the job."""

    def __init__(
        self, answer: WrittenAnswer, mail: Mail, job: Job, watch: asyncio.Task[None], first: list[News]
    ) -> None:
        super().__init__(media_type="text/event-stream", headers={"cache-control": "no-cache"})
        del self.headers["content-length"]
        self._answer, self._mail, self._job, self._watch, self._first = answer, mail, job, watch, first

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            left = self._job.deadline - time.monotonic() + _MARGIN
            async with asyncio.timeout(left):
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                async for piece in self._events():
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        except (ClientDisconnect, TimeoutError):
            pass  # nobody reads it
        finally:
            self._job.cancel()
            self._watch.cancel()

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
    return b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace") + b"\n\n"


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _about(served: ServedModel) -> dict[str, Any]:
    own = {"context_length": served.engine.room.context}
    return {"id": served.name, "object": "model", "created": served.created, "owned_by": "isoflop", **own}


def _oversized(most: int) -> Refusal:
    what = f"The body is larger than the server's limit of {most} bytes"
    return Refusal(413, what, code="body_too_large", headers={"connection": "close"})


class Guard:
    """Around the application: who may ask, what is counted, and that every failure is an answer.

    Args:
        app: the application.
        front: its state.
    """

    def __init__(self, app: Any, front: Front) -> None:
        self._app, self._front = app, front

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 0

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            try:
                self._front.admit(scope)
                await self._app(scope, receive, sent)
            except ClientDisconnect:
                status = status or 499
            except Refusal as error:
                if not status:
                    await _refusal(error)(scope, receive, sent)
            except asyncio.CancelledError:
                if not status:
                    with contextlib.suppress(Exception):
                        await _refusal(stopping())(scope, receive, sent)
                raise
            except Exception:
                import traceback

                traceback.print_exc()
                if not status:
                    await _refusal(failed("an unexpected error"))(scope, receive, sent)
        finally:
            path = scope["path"]
            known = path if path in PATHS else "/v1/models/*" if path.startswith("/v1/models/") else "other"
            self._front.book.add(known, status)


def _refusal(error: Refusal) -> JSONResponse:
    return JSONResponse(error.body(), error.status, headers=error.headers)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return _refusal(error)


async def _no_such(request: Request, error: Exception) -> Response:
    return _refusal(Refusal(404, f"There is nothing at {request.url.path[:200]}", code="unknown_url"))


async def _no_method(request: Request, error: Exception) -> Response:
    what = f"{request.method} is not allowed at {request.url.path[:200]}"
    return _refusal(Refusal(405, what, code="method_not_allowed"))


async def _unforeseen(request: Request, error: Exception) -> Response:
    return _refusal(failed("an unexpected error"))


def application(front: Front) -> Any:
    """The ASGI application.

    Args:
        front: its state.
    """
    routes = [
        Route("/health", front.health),
        Route("/metrics", front.metrics),
        Route("/v1/models", front.list_models),
        Route("/v1/models/{name:path}", front.one_model),
        Route("/v1/completions", front.completions, methods=["POST"]),
        Route("/v1/chat/completions", front.chat, methods=["POST"]),
    ]
    handlers: dict[Any, Any] = {Refusal: _refused, 404: _no_such, 405: _no_method, Exception: _unforeseen}
    return Guard(Starlette(routes=routes, exception_handlers=handlers), front)

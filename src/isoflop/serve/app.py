"""The HTTP side: OpenAI's paths, each request bounded in size and time, errors in OpenAI's form."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import anyio.to_thread
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from .answers import WrittenAnswer
from .metrics import CONTENT_TYPE, Book
from .problems import Refusal, busy, failed, late, stopping, unknown_model
from .requests import ChatRequest, CompletionRequest, GenerationRequest, read
from .sequence import Job
from .served import Asked, ServedModel
from .streaming import EventStream, Json, Mail, at_last, disconnected

if TYPE_CHECKING:
    from starlette.types import Message, Receive, Scope, Send

T = TypeVar("T")
PATHS = ("/v1/completions", "/v1/chat/completions", "/v1/models", "/health", "/metrics")
_OPEN = ("/health",)
"""Paths that need no key."""
_MARGIN = 5.0
"""Seconds beyond a request's limit in which a client must have taken its answer."""
NOTED = 1 << 20
"""Log-probabilities that one request may ask for; all that are being answered may ask for four times as many."""
_THREADS = 4
"""Bodies that are read, and answers that are written out, at the same time."""


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
        2097152
    """

    body: int = 2 << 20
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
        self.connections, self._noted = connections, 0
        self._threads, self._chats = anyio.CapacityLimiter(_THREADS), anyio.CapacityLimiter(1)

    @property
    def healthy(self) -> bool:
        """Whether every model's engine works and takes requests."""
        return all(served.engine.alive for served in self.models)

    # ------------------------------------------------------------ paths

    async def health(self, request: Request) -> Response:
        """Whether requests are served."""
        return Json({"status": "ok"}) if self.healthy else Json({"status": "stopping"}, 503)

    async def metrics(self, request: Request) -> Response:
        """What was done so far."""
        return PlainTextResponse(self.book.text(self.models, self.connections), media_type=CONTENT_TYPE)

    async def list_models(self, request: Request) -> Response:
        """The models that are served."""
        return Json({"object": "list", "data": [_about(served) for served in self.models]})

    async def one_model(self, request: Request) -> Response:
        """One of them."""
        return Json(_about(self._named(request.path_params["name"])))

    async def completions(self, request: Request) -> Response:
        """Go on from prompts."""
        return await self._generate(request, CompletionRequest)

    async def chat(self, request: Request) -> Response:
        """Go on in a conversation."""
        return await self._generate(request, ChatRequest)

    # ------------------------------------------------------------ what the last two do

    async def _generate(self, request: Request, kind: type[GenerationRequest]) -> Response:
        body = await self._body(request)
        served, asked = await self._aside(lambda: self._understood(body, kind), kind is ChatRequest)
        answer, mail = WrittenAnswer(served, asked), Mail()
        job = Job(asked.sequences, mail.deliver, self.limits.seconds)
        end = contextlib.ExitStack()
        end.enter_context(self._keeping(asked.noted))
        end.callback(job.cancel)
        try:
            served.engine.submit(job)
            watch = asyncio.create_task(disconnected(request.receive))
            end.callback(watch.cancel)
            first = await mail.news(watch)
            if asked.request.stream:
                return EventStream(answer, mail, watch, first, end.pop_all())
            answer.take(first)
            while answer.left:
                answer.take(await mail.news(watch))
            return await self._aside(lambda: Json(answer.whole()))
        finally:
            end.close()

    async def _aside(self, work: Callable[[], T], chat: bool = False) -> T:
        """In a thread, so that others are answered meanwhile; a slow chat template keeps only other chats waiting."""
        limiter = self._chats if chat else self._threads
        return await anyio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=limiter)

    @contextlib.contextmanager
    def _keeping(self, noted: int) -> Iterator[None]:
        """Room for so many log-probabilities."""
        if noted > NOTED:
            what = f"{noted} log-probabilities may have to be given; at most {NOTED} are in one request"
            raise Refusal(400, what, param="logprobs")
        if self._noted + noted > 4 * NOTED:
            raise busy("Too many log-probabilities are asked for at the same time; try again in a moment")
        self._noted += noted
        try:
            yield
        finally:
            self._noted -= noted

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


def _about(served: ServedModel) -> dict[str, Any]:
    own = {"context_length": served.engine.room.context}
    return {"id": served.name, "object": "model", "created": served.created, "owned_by": "isoflop", **own}


def _oversized(most: int) -> Refusal:
    what = f"The body is larger than the server's limit of {most} bytes"
    return Refusal(413, what, code="body_too_large")  # the rest is read and thrown away, so that this can be read


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

        limits = self._front.limits
        try:
            try:
                self._front.admit(scope)
                async with asyncio.timeout(limits.body_seconds + limits.seconds + _MARGIN):
                    await self._app(scope, receive, sent)
            except TimeoutError:
                if not status:
                    await at_last(_refusal(late(limits.seconds))(scope, receive, sent))
            except ClientDisconnect:
                status = status or 499
            except Refusal as error:
                if not status:
                    await _refusal(error)(scope, receive, sent)
            except asyncio.CancelledError:
                if not status:
                    await at_last(_refusal(stopping())(scope, receive, sent))
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


def _refusal(error: Refusal) -> Json:
    return Json(error.body(), error.status, headers=error.headers)


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

"""A server in this process, and a client of it that may misbehave."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import torch

import published_toys
from isoflop.serve.app import Front, Limits
from isoflop.serve.room import Room
from isoflop.serve.served import ServedModel, serve_model
from isoflop.serve.server import Door, HttpServer
from isoflop.train.restore import Trained, published
from tokenizer_toys import CHATML

ROOM = Room(rows=4, context=64, tokens=4 * 64, waiting=200)


def toy_model(place: Path, family: str = "llama") -> Trained:
    """A published model that writes any bytes, with a chat template."""
    published_toys.directory(place, family, tokenizer=True, vocab_size=304)
    (place / "chat_template.jinja").write_text(CHATML)
    return published(place)


def toy_served(found: Trained, room: Room = ROOM, name: str = "mine") -> ServedModel:
    """A model with an engine that has not begun."""
    assert found.tokenizer is not None
    return serve_model(name, found.model, found.tokenizer, room, choices=100)


class Client:
    """Asks a server.

    Args:
        port: of this machine.
    """

    def __init__(self, port: int) -> None:
        self.port = port

    def ask(
        self, path: str, body: Any = None, *, method: str | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        """Status and body, parsed where it is JSON."""
        status, raw, kind = self.raw(path, body, method=method, headers=headers)
        return status, json.loads(raw) if kind.startswith("application/json") else raw.decode()

    def raw(
        self, path: str, body: Any = None, *, method: str | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes, str]:
        """Status, body and content type."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        given = {"content-type": "application/json"} | (headers or {})
        try:
            connection.request(method or ("GET" if body is None else "POST"), path, data, given)
            answer = connection.getresponse()
            return answer.status, answer.read(), answer.headers.get("content-type", "")
        finally:
            connection.close()

    def complete(self, prompt: Any, **wishes: Any) -> dict[str, Any]:
        """The answer to a completion that is served."""
        status, found = self.ask("/v1/completions", {"model": "mine", "prompt": prompt, **wishes})
        assert status == 200, found
        return dict(found)

    def text(self, prompt: Any, **wishes: Any) -> str:
        """The first choice's text."""
        return str(self.complete(prompt, **wishes)["choices"][0]["text"])

    def stream(self, path: str, body: dict[str, Any]) -> list[Any]:
        """The events of a stream, its end included."""
        status, raw, kind = self.raw(path, {"model": "mine", "stream": True, **body})
        assert status == 200, raw
        assert kind.startswith("text/event-stream")
        events = raw.decode().split("\n\n")
        assert events.pop() == ""
        assert all(event.startswith("data: ") for event in events)
        said = [event.removeprefix("data: ") for event in events]
        return [event if event == "[DONE]" else json.loads(event) for event in said]

    def socket(self, data: bytes = b"") -> socket.socket:
        """A connection that has sent some bytes."""
        found = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        found.sendall(data)
        return found


@contextmanager
def running(
    *models: ServedModel, limits: Limits | None = None, door: Door | None = None, key: str | None = None
) -> Iterator[Client]:
    """A server of some models, on a free port."""
    door = door or Door(port=0)
    opened, ready = door.open(), threading.Event()
    port = opened.getsockname()[1]
    server = HttpServer(Front(models, limits or Limits(), key), door)
    thread = threading.Thread(target=server.run, args=(opened, ready.set), daemon=True)
    before = torch.get_num_threads()
    thread.start()
    try:
        assert ready.wait(60)
        yield Client(port)
    finally:
        server.stop()
        thread.join(60)
        assert not thread.is_alive()
        torch.set_num_threads(before)

"""docs/guide/serve.md: its commands, run as they stand there but for the port, and what it says of the server."""

from __future__ import annotations

import inspect
import re
import shlex
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from isoflop.cli.main import invoke
from isoflop.cli.serve import _Limits, serve
from isoflop.serve.app import Limits
from isoflop.serve.requests import ChatRequest, CompletionRequest
from isoflop.serve.server import GRACE, Door, HttpServer
from serving import Client

PAGE = (Path(__file__).parents[2] / "docs" / "guide" / "serve.md").read_text()


@pytest.fixture
def port(tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ISOFLOP_ROOT", raising=False)
    monkeypatch.delenv("ISOFLOP_API_KEY", raising=False)
    shutil.copytree(corpus, tmp_path / "texts")
    servers, run = list[HttpServer](), HttpServer.run

    def known(self: HttpServer, *given: Any) -> None:
        servers.append(self)
        run(self, *given)

    monkeypatch.setattr(HttpServer, "run", known)
    with socket.create_server(("127.0.0.1", 0)) as free:
        found = free.getsockname()[1]
    yield found
    for server in servers:
        server.stop()
    for thread in threading.enumerate():
        if thread.name == "serving":
            thread.join(60)


def curl(client: Client, arguments: list[str]) -> tuple[int, Any]:
    url, *options = arguments
    path = "/" + url.split("/", 3)[3]
    given = dict(zip(options[::2], options[1::2], strict=True))
    name, _, value = given.get("-H", "x: y").partition(": ")
    body = given["-d"].encode() if "-d" in given else None
    return client.ask(path, body, headers={name: value})


def test_every_command_of_the_page_works(port: int, capsys: pytest.CaptureFixture[str]) -> None:
    ((file, recipe),) = re.findall(r"`([\w.]+)`:\n\n```toml\n(.*?)```", PAGE, re.DOTALL)
    Path(file).write_text(recipe)
    client, answers = Client(port), list[Any]()
    blocks = re.findall(r"```(\w*)\n(.*?)```", PAGE, re.DOTALL)
    for block in (text for language, text in blocks if not language):
        for line in block.strip().splitlines():
            program, *arguments = shlex.split(line)
            if arguments[0] == "serve":
                given = [*arguments, "--port", str(port), "--threads", "1"]
                ready = threading.Thread(target=invoke, args=(given,), name="serving", daemon=True)
                ready.start()
                wait_for_it(client)
            elif program == "isoflop":
                assert invoke(arguments) == 0, (line, capsys.readouterr().err)
            else:
                status, answer = curl(client, arguments)
                assert status == 200, (line, answer)
                answers.append(answer)
    models, completion = answers
    assert models["data"][0]["id"] == "mine"
    assert completion["usage"]["completion_tokens"] <= 20
    assert "serving at http://127.0.0.1:" in capsys.readouterr().out


def wait_for_it(client: Client) -> None:
    for _ in range(600):
        try:
            assert client.ask("/health")[0] == 200
            return
        except OSError:
            threading.Event().wait(0.1)
    raise AssertionError("it does not serve")


def test_the_page_tells_the_defaults_and_every_parameter() -> None:
    said = dict(re.findall(r"\| `(--[^`]*?)(?:=N)?` \| ([^|]*?) \|", PAGE))
    limits = _Limits()
    assert said == {
        "--slots": str(_default("slots")),
        "--context": "as trained",
        "--limit tokens": "slots times context, or a quarter of the memory",
        "--limit queue": str(limits.queue),
        "--limit seconds": f"{limits.seconds:g}",
        "--limit body": f"{limits.body >> 20} MiB",
        "--limit connections": str(limits.connections),
        "--limit idle": f"{limits.idle:g}",
    }
    assert (Limits().body, Limits().seconds) == (limits.body, limits.seconds)
    assert (Door().connections, Door().idle) == (limits.connections, limits.idle)
    assert f"for {GRACE:g}\nseconds" in PAGE
    for name in {*CompletionRequest.model_fields, *ChatRequest.model_fields} - {"model", "best_of"}:
        assert f"`{name}`" in PAGE or f"`{name}." in PAGE or name in ("messages", "max_completion_tokens"), name


def _default(name: str) -> Any:
    return inspect.signature(serve).parameters[name].default

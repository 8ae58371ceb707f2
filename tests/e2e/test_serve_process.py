"""``isoflop serve`` as a process of its own: how it begins, what a crowd does to it, and how it ends."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from isoflop.cli.main import invoke
from isoflop.cli.serve import KEY
from serving import Client, toy_model

COMPLETIONS = "/v1/completions"
GOOD = {"model": "mine", "max_tokens": 20, "temperature": 0, "ignore_eos": True}
SCORED = {**GOOD, "echo": True, "logprobs": 5}
LONG = {**GOOD, "prompt": "a", "max_tokens": 62, "stream": True}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("serve") / "mine"
    toy_model(place)
    return place


@contextmanager
def process(model: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], Client]]:
    command = [sys.executable, "-m", "isoflop", "serve", str(model), "--port", "0", "--threads", "1", *options]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=model.parent
    ) as found:
        assert found.stdout is not None
        try:
            line = next((line for line in found.stdout if line.startswith("serving at")), "")
            assert line, found.stderr and found.stderr.read()
            yield found, Client(int(line.partition("/v1")[0].rpartition(":")[2]))
        finally:
            found.kill()


def resident(pid: int) -> int:
    """Bytes of memory."""
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * int(status.partition("VmRSS:")[2].split()[0])


def head(path: str, size: int) -> bytes:
    lines = (f"POST {path} HTTP/1.1", "host: localhost", "content-type: application/json", f"content-length: {size}")
    return "\r\n".join([*lines, "", ""]).encode()


def abandoned(client: Client) -> int:
    """A stream whose reader goes away at once."""
    body = json.dumps(LONG).encode()
    with client.socket(head(COMPLETIONS, len(body)) + body) as connection:
        return int(connection.recv(64).split(b" ")[1])


def dawdling(client: Client) -> int:
    """A stream that is asked for and read in small pieces."""
    body = json.dumps(LONG).encode()
    with client.socket(head(COMPLETIONS, len(body)) + body[:20]) as connection:
        time.sleep(0.2)
        connection.sendall(body[20:])
        found = connection.recv(20)
        while b"[DONE]" not in found:
            time.sleep(0.005)
            found += connection.recv(200)
        return int(found.split(b" ")[1])


def never_read(client: Client) -> int:
    """An answer that nobody fetches."""
    body = json.dumps({**GOOD, "prompt": [[i, i] for i in range(40)], "logprobs": 5}).encode()
    with client.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(head(COMPLETIONS, len(body)) + body)
        time.sleep(1)
        return 0


KINDS = {
    "good": (lambda client: client.raw(COMPLETIONS, {**GOOD, "prompt": "good"})[0], 200),
    "scored": (lambda client: client.raw(COMPLETIONS, {**SCORED, "prompt": [[5] * 40]})[0], 200),
    "broken": (lambda client: client.raw(COMPLETIONS, b'{"model": ')[0], 400),
    "oversized": (lambda client: client.raw(COMPLETIONS, b" " * 300_000)[0], 413),
    "long": (lambda client: client.raw(COMPLETIONS, {**GOOD, "prompt": "long " * 999})[0], 400),
    "other": (lambda client: client.raw(COMPLETIONS, {**GOOD, "model": "other"})[0], 404),
    "abandoned": (abandoned, 200),
    "dawdling": (dawdling, 200),
    "never_read": (never_read, 0),
}  # fmt: skip


@pytest.mark.slow
def test_a_crowd_is_served_in_bounded_memory_and_the_end_is_quick(model: Path) -> None:
    """200 requests over 32 connections; the good ones among them all get the text that one alone gets."""
    with process(model, "--slots", "8", "--limit", "body=200000") as (server, client):
        alone = client.complete("good", **{k: v for k, v in GOOD.items() if k != "model"})["choices"][0]["text"]
        crowd(client, ["good", "scored", "abandoned", "oversized"] * 8)
        before, began = resident(server.pid), time.monotonic()
        kinds = [*KINDS] * 23
        random.Random(0).shuffle(kinds)
        assert crowd(client, kinds[:200]) == Counter((kind, KINDS[kind][1]) for kind in kinds[:200])
        more = resident(server.pid) - before
        assert more < 64 << 20
        assert client.complete("good", **{k: v for k, v in GOOD.items() if k != "model"})["choices"][0]["text"] == alone
        print(f"{more / 2**20:.1f} MiB more after {time.monotonic() - began:.1f} s")
        assert_ends_quickly(server, client)


def crowd(client: Client, kinds: list[str]) -> Counter[tuple[str, int]]:
    """What each kind got, 32 at a time."""
    left, found, lock = list(kinds), Counter[tuple[str, int]](), threading.Lock()

    def work() -> None:
        while True:
            with lock:
                if not left:
                    return
                kind = left.pop()
            try:
                status = KINDS[kind][0](client)
            except OSError as error:
                status = -(error.errno or 1)
            with lock:
                found[kind, status] += 1

    threads = [threading.Thread(target=work) for _ in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def assert_ends_quickly(server: subprocess.Popen[str], client: Client) -> None:
    """With texts that are being written and texts that wait: each is finished, or told why not."""
    said: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: said.append(client.raw(COMPLETIONS, {**LONG, "n": 20})[1])) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    idle = client.socket()
    began = time.monotonic()
    server.send_signal(signal.SIGTERM)
    code = server.wait(20)
    took = time.monotonic() - began
    print(f"it ended after {took:.2f} s")
    for thread in threads:
        thread.join()
    idle.close()
    assert server.stderr is not None
    assert (code, took < 5) == (143, True), (took, server.stderr.read())
    assert all(b"data: [DONE]" in each or b"server_stopping" in each for each in said)
    words = server.stderr.read()
    assert "stopped by SIGTERM after writing" in words
    assert "Traceback" not in words


def test_what_it_cannot_begin_with_is_one_clear_error(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(KEY, raising=False)

    def refused(*arguments: str) -> str:
        assert invoke(["serve", *arguments]) == 2, arguments
        return capsys.readouterr().err

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"port {port} of 127.0.0.1 is taken; choose another" in refused(str(model), "--port", str(port))
    assert "no such host" in refused(str(model), "--host", "no.such.host.invalid")
    assert "nothing" in refused(str(tmp_path / "nothing"), "--port", "0")
    twice = refused(str(model), str(model), "--port", "0")
    assert "two models are called 'mine'; name one of them: NAME=RUN" in twice
    assert "did you mean queue?" in refused(str(model), "--limit", "queu=3")
    assert "queue: Input should be greater" in refused(str(model), "--limit", "queue=-3")
    assert "no weights are named 'int4'" in refused(str(model), "--weights", "int4")
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "isoflop.serve.server")
    assert "the package uvicorn is missing; pip install 'isoflop[serve]'" in refused(str(model))


def test_more_context_than_a_model_has_positions_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toy_model(tmp_path / "gpt", "gpt2")
    assert invoke(["serve", str(tmp_path / "gpt"), "--port", "0", "--context", "41"]) == 2
    assert "the model has learned 40 positions; use at most 40" in capsys.readouterr().err


def test_a_model_that_fills_in_is_refused(
    tiny: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = str(tmp_path / "runs")
    assert invoke(["train", str(tiny("budget.steps=1")), "objective=masked", "--root", root, "--name", "a"]) == 0
    assert invoke(["serve", "a", "--root", root, "--port", "0"]) == 2
    assert "a: fills in what is hidden, and only what writes from left to right is served" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open every port")
def test_a_port_of_the_system_is_refused(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["serve", str(model), "--port", "1"]) == 2
    assert "may not be opened" in capsys.readouterr().err

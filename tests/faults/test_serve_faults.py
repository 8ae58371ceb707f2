"""Clients that are wrong, slow, greedy or gone, and models that fail: each is answered, and others are served."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from isoflop.serve.app import Front, Limits
from isoflop.serve.engine import Engine
from isoflop.serve.requests import CompletionRequest
from isoflop.serve.room import Room
from isoflop.serve.served import ServedModel
from isoflop.serve.server import Door
from isoflop.train.restore import Trained
from serving import ROOM, Client, running, toy_model, toy_served

COMPLETIONS, CHATS = "/v1/completions", "/v1/chat/completions"
GOOD = {"model": "mine", "prompt": "a", "max_tokens": 2}
TALK = {"model": "mine", "messages": [{"role": "user", "content": "a"}], "max_tokens": 2}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return toy_model(tmp_path_factory.mktemp("serve") / "mine")


@pytest.fixture(scope="module")
def served(found: Trained) -> ServedModel:
    return toy_served(found)


@pytest.fixture(scope="module")
def client(served: ServedModel) -> Iterator[Client]:
    with running(served, limits=Limits(body=20_000, body_seconds=5, seconds=60), door=Door(port=0, idle=2)) as client:
        yield client


def refused(client: Client, path: str, body: Any, **how: Any) -> tuple[int, str | None, str]:
    """Status, code and message of an error, which has OpenAI's form."""
    status, said = client.ask(path, body, **how)
    assert set(said) == {"error"}, said
    error = said["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    return status, error["code"], error["message"]


WRONG: list[tuple[str, Any, int, str | None, str]] = [
    (COMPLETIONS, b"{", 400, None, "no valid JSON"),
    (COMPLETIONS, b"\xff\xfe", 400, None, "no valid JSON"),
    (COMPLETIONS, b"[" * 9000, 400, None, "no valid JSON"),
    (COMPLETIONS, b'{"max_tokens": ' + b"9" * 5000 + b"}", 400, None, "no valid JSON"),
    (COMPLETIONS, b"[1]", 400, None, "must be a JSON object"),
    (COMPLETIONS, b'{"model": "mine", "temperature": NaN}', 400, None, "NaN is no JSON number"),
    (COMPLETIONS, b'{"model": "mine", "temperature": 1e999}', 400, None, "temperature"),
    (COMPLETIONS, {"prompt": "a"}, 400, None, "model: Field required"),
    (COMPLETIONS, {**GOOD, "model": "other"}, 404, "model_not_found", "served: mine"),
    (COMPLETIONS, {**GOOD, "model": "\ud800"}, 404, "model_not_found", "served: mine"),
    (COMPLETIONS, {**GOOD, "\ud800": 1}, 400, "unknown_parameter", "Unrecognized"),
    (COMPLETIONS, {**GOOD, "temprature": 1}, 400, "unknown_parameter", "did you mean temperature?"),
    (COMPLETIONS, {**GOOD, "suffix": "x"}, 400, "unsupported_parameter", "suffix is not supported"),
    (COMPLETIONS, {**GOOD, "best_of": 3}, 400, "unsupported_parameter", "best_of"),
    (COMPLETIONS, {**GOOD, "max_tokens": -1}, 400, None, "max_tokens"),
    (COMPLETIONS, {**GOOD, "max_tokens": True}, 400, None, "max_tokens"),
    (COMPLETIONS, {**GOOD, "max_tokens": 10**30}, 400, "context_length_exceeded", "64 tokens"),
    (COMPLETIONS, {**GOOD, "max_tokens": 63}, 400, "context_length_exceeded", "64 tokens"),
    (COMPLETIONS, {**GOOD, "prompt": [1] * 64}, 400, "context_length_exceeded", "64 tokens"),
    (COMPLETIONS, {**GOOD, "prompt": [1] * 65}, 400, "context_length_exceeded", "64 tokens"),
    (COMPLETIONS, {**GOOD, "prompt": "long " * 3000}, 400, "context_length_exceeded", "64 tokens"),
    (COMPLETIONS, {**GOOD, "prompt": "\ud800"}, 400, None, "prompt"),
    (COMPLETIONS, {**GOOD, "prompt": []}, 400, None, "prompt must be"),
    (COMPLETIONS, {**GOOD, "prompt": [[]]}, 400, None, "prompt must be"),
    (COMPLETIONS, {**GOOD, "prompt": [True]}, 400, None, "prompt must be"),
    (COMPLETIONS, {**GOOD, "prompt": [1, "a"]}, 400, None, "prompt must be"),
    (COMPLETIONS, {**GOOD, "prompt": [304]}, 400, None, "no token id below 304"),
    (COMPLETIONS, {**GOOD, "prompt": [-1]}, 400, None, "no token id below 304"),
    (COMPLETIONS, {**GOOD, "prompt": [10**40]}, 400, None, "no token id below 304"),
    (COMPLETIONS, {**GOOD, "n": 101}, 400, None, "at most 100"),
    (COMPLETIONS, {**GOOD, "n": 0}, 400, None, "n:"),
    (COMPLETIONS, {**GOOD, "stop": ""}, 400, None, "stop must be"),
    (COMPLETIONS, {**GOOD, "stop": ["a"] * 17}, 400, None, "stop must be"),
    (COMPLETIONS, {**GOOD, "logprobs": 21}, 400, None, "logprobs"),
    (COMPLETIONS, {**GOOD, "logit_bias": {"x": 1}}, 400, None, "no token id"),
    (COMPLETIONS, {**GOOD, "logit_bias": {"304": 1}}, 400, None, "no token id"),
    (COMPLETIONS, {**GOOD, "logit_bias": {"3": 101}}, 400, None, "logit_bias"),
    (COMPLETIONS, {**GOOD, "top_p": 0}, 400, None, "top_p"),
    (COMPLETIONS, {**GOOD, "stream_options": {"include_usage": True}}, 400, None, "stream_options"),
    (COMPLETIONS, {**GOOD, "messages": []}, 400, "unknown_parameter", "messages"),
    (CHATS, {**TALK, "messages": []}, 400, None, "messages"),
    (CHATS, {**TALK, "messages": ["a"]}, 400, None, "messages"),
    (CHATS, {**TALK, "messages": [{"content": "a"}]}, 400, None, "role"),
    (CHATS, {**TALK, "messages": [{"role": "user", "content": 7}]}, 400, None, "content"),
    (CHATS, {**TALK, "messages": [{"role": "user", "content": [{"type": "image"}]}]}, 400, "unsupported_content", "t"),
    (CHATS, {**TALK, "tools": [{"type": "function"}]}, 400, "unsupported_parameter", "tools"),
    (CHATS, {**TALK, "response_format": {"type": "json_object"}}, 400, "unsupported_parameter", "response_format"),
    (CHATS, {**TALK, "top_logprobs": 2}, 400, None, "top_logprobs"),
    (CHATS, {**TALK, "max_tokens": 60}, 400, "context_length_exceeded", "64 tokens"),
    (CHATS, {**TALK, "messages": [{"role": "user", "content": "\ufdd0"}]}, 400, None, "chat template"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body", "status", "code", "words"), WRONG, ids=range(len(WRONG)))
def test_a_wrong_request_is_told_what_is_wrong(
    client: Client, path: str, body: Any, status: int, code: str | None, words: str
) -> None:
    found = refused(client, path, body)
    assert found[:2] == (status, code)
    assert words in found[2]


def test_other_paths_methods_and_types(client: Client) -> None:
    assert refused(client, "/v1/nothing", None)[:2] == (404, "unknown_url")
    assert refused(client, "/v1/models/other", None)[:2] == (404, "model_not_found")
    assert refused(client, COMPLETIONS, None)[:2] == (405, "method_not_allowed")
    assert refused(client, "/health", {"a": 1})[:2] == (405, "method_not_allowed")
    assert refused(client, COMPLETIONS, b"{}", headers={"content-type": "text/plain"})[0] == 415
    assert refused(client, COMPLETIONS, GOOD, headers={"content-length": "x"})[0] == 400


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(
        st.sampled_from([*CompletionRequest.model_fields, "user", "suffix", "x"]),
        st.recursive(
            st.none() | st.booleans() | st.integers(-3, 70) | st.floats() | st.text(max_size=4),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
            max_leaves=4,
        ),
    )
)
def test_no_body_whatever_breaks_the_server(client: Client, body: dict[str, Any]) -> None:
    status, raw, _ = client.raw(COMPLETIONS, json.dumps({"model": "mine"} | body).encode())
    assert status in (200, 400, 404), raw


def test_a_body_that_is_too_large_is_refused_before_it_is_read(client: Client) -> None:
    assert refused(client, COMPLETIONS, b" " * 20_001)[:2] == (413, "body_too_large")
    chunk = b"4000\r\n" + b" " * 0x4000 + b"\r\n"
    with client.socket(head("transfer-encoding: chunked") + chunk * 3) as connection:
        assert status_of(connection) == 413
    with client.socket(head("content-length: 99999999999")) as connection:
        assert status_of(connection) == 413


def head(*lines: str, path: str = COMPLETIONS) -> bytes:
    told = [f"POST {path} HTTP/1.1", "host: localhost", "content-type: application/json", *lines]
    return "\r\n".join([*told, "", ""]).encode()


def status_of(connection: socket.socket) -> int:
    """Of the answer; 0 where the connection is closed without one."""
    connection.settimeout(30)
    data = b""
    while b"\r\n" not in data:
        try:
            more = connection.recv(4096)
        except ConnectionResetError:
            more = b""
        if not more:
            return 0
        data += more
    return int(data.split(b" ")[1])


def test_whoever_does_not_speak_is_let_go(client: Client) -> None:
    """Of a head that never ends, a body that never comes, and no word at all."""
    began = time.monotonic()
    silent, begun, waiting = client.socket(), client.socket(b"POST /v1"), client.socket(head("content-length: 50"))
    nonsense = client.socket(b"\x16\x03\x01\x02 what\r\n\r\n")
    assert status_of(nonsense) == 400
    assert status_of(waiting) == 408
    assert status_of(silent) == 0
    assert status_of(begun) == 0
    assert time.monotonic() - began < 30
    for each in (silent, begun, waiting, nonsense):
        each.close()


def test_connections_are_counted(found: Trained) -> None:
    with running(toy_served(found), door=Door(port=0, connections=3)) as client:
        held = [client.socket() for _ in range(3)]
        time.sleep(0.2)
        with client.socket() as another:
            assert status_of(another) == 503
        for each in held:
            each.close()
        wait_for(lambda: client.raw("/health")[0] == 200)


def wait_for(done: Any, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            if done():
                return
        except (OSError, AssertionError):
            pass
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.02)


class Slowly:
    """A batch whose steps wait until they may go on."""

    def __init__(self, served: ServedModel, monkeypatch: pytest.MonkeyPatch) -> None:
        self.going = threading.Event()
        step = served.engine._batch.step
        monkeypatch.setattr(served.engine._batch, "step", lambda pieces: (self.going.wait(20), step(pieces))[1])


def test_those_who_leave_make_room_at_once(found: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    served = toy_served(found)
    with running(served) as client:
        slowly = Slowly(served, monkeypatch)
        body = json.dumps({**GOOD, "max_tokens": 60, "ignore_eos": True, "stream": True}).encode()
        gone = [client.socket(head(f"content-length: {len(body)}") + body) for _ in range(8)]
        wait_for(lambda: served.engine.running + served.engine.waiting == 8)
        for each in gone:
            each.close()
        time.sleep(0.3)
        slowly.going.set()
        wait_for(lambda: served.engine.running + served.engine.waiting == 0)
        assert served.engine.tally.ended["cancelled"] == 8
        assert served.engine.tally.new_tokens < 8 * 20
        assert client.text("b", max_tokens=3, ignore_eos=True)


def test_a_full_queue_says_so_and_a_late_request_is_ended(found: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    served = toy_served(found, Room(rows=1, context=64, tokens=64, waiting=2))
    with running(served, limits=Limits(seconds=4)) as client:
        slowly = Slowly(served, monkeypatch)
        statuses: list[int] = []

        def ask() -> None:
            statuses.append(client.raw(COMPLETIONS, GOOD)[0])

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for number, thread in enumerate(threads, 1):
            thread.start()
            wait_for(lambda number=number: served.engine.running + served.engine.waiting == number)
        status, _, kind = client.raw(COMPLETIONS, GOOD)
        assert (status, kind) == (429, "application/json")
        time.sleep(4.1)
        slowly.going.set()
        for thread in threads:
            thread.join()
        assert statuses == [504] * 3
        assert client.text("b", max_tokens=1, ignore_eos=True) is not None


def test_a_step_that_fails_ends_those_in_it_and_no_others(
    found: Trained, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    served = toy_served(found)
    with running(served) as client:
        expected = client.text("a", max_tokens=4, temperature=0)
        monkeypatch.setattr(served.engine._batch, "step", lambda pieces: 1 / 0)
        assert refused(client, COMPLETIONS, GOOD)[:2] == (500, "internal_error")
        assert client.text("a", max_tokens=4, temperature=0) == expected
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_logits_that_are_not_finite_end_their_own_request_alone(
    found: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = toy_served(found)
    with running(served) as client:
        expected = client.text([1, 2], max_tokens=30, temperature=0, ignore_eos=True)
        step = served.engine._batch.step

        def spoilt(pieces: Any) -> Any:
            return [
                torch.full_like(logits, torch.nan) if 9 in piece.tokens else logits
                for piece, logits in zip(pieces, step(pieces), strict=True)
            ]

        monkeypatch.setattr(served.engine._batch, "step", spoilt)
        answers: list[str] = []
        other = threading.Thread(
            target=lambda: answers.append(client.text([1, 2], max_tokens=30, temperature=0, ignore_eos=True))
        )
        other.start()
        assert refused(client, COMPLETIONS, {**GOOD, "prompt": [9, 9]})[:2] == (500, "internal_error")
        other.join()
        assert answers == [expected]


def test_a_key_is_asked_of_everybody(found: Trained) -> None:
    with running(toy_served(found), key="sécret") as client:
        bearer = {"authorization": "Bearer sécret".encode().decode("latin-1")}
        assert client.raw("/health")[0] == 200
        for path in ("/v1/models", "/metrics", "/nothing"):
            assert refused(client, path, None)[:2] == (401, "invalid_api_key")
            assert refused(client, path, None, headers={"authorization": "Bearer x"})[0] == 401
        assert client.raw("/v1/models", headers=bearer)[0] == 200
        assert client.raw(COMPLETIONS, GOOD, headers=bearer)[0] == 200


def test_a_page_that_calls_this_machine_by_another_name_is_refused(found: Trained) -> None:
    with running(toy_served(found), limits=Limits(hosts=("localhost", "127.0.0.1", "[::1]"))) as client:
        assert refused(client, "/v1/models", None, headers={"host": "evil.example:80"})[:2] == (403, "unknown_host")
        for host in ("localhost", "localhost:81", "127.0.0.1:9", "[::1]:7"):
            assert client.raw("/v1/models", headers={"host": host})[0] == 200


def test_what_runs_when_the_server_stops_is_finished_or_told(found: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("isoflop.serve.server.GRACE", 40)
    served = toy_served(found, Room(rows=2, context=64, tokens=128, waiting=9))
    said: dict[str, tuple[int, bytes, str]] = {}
    with running(served) as client:
        step = served.engine._batch.step
        monkeypatch.setattr(served.engine._batch, "step", lambda pieces: (time.sleep(0.06), step(pieces))[1])

        def ask(name: str, **more: Any) -> threading.Thread:
            def asking() -> None:
                said[name] = client.raw(COMPLETIONS, {**GOOD, "ignore_eos": True, **more})

            thread = threading.Thread(target=asking)
            thread.start()
            return thread

        threads = [ask("whole", max_tokens=25), ask("stream", max_tokens=30, stream=True)]
        wait_for(lambda: served.engine.running == 2)
        threads.append(ask("waiting"))
        wait_for(lambda: served.engine.waiting == 1)
    for thread in threads:
        thread.join()
    assert said["whole"][0] == 200
    assert said["stream"][1].endswith(b"data: [DONE]\n\n")
    assert said["waiting"][0] == 503
    assert json.loads(said["waiting"][1])["error"]["code"] == "server_stopping"


def test_no_request_is_starved_by_many_small_ones(found: Trained) -> None:
    """A long sequence that does not fit beside others has its turn, though short ones keep coming."""
    served = toy_served(found, Room(rows=4, context=64, tokens=100, waiting=90))
    with running(served) as client:
        stop = threading.Event()

        def small() -> None:
            while not stop.is_set():
                client.complete("s", max_tokens=2, ignore_eos=True)

        threads = [threading.Thread(target=small) for _ in range(5)]
        for thread in threads:
            thread.start()
        try:
            assert client.complete([5] * 30, max_tokens=34, ignore_eos=True)["usage"]["completion_tokens"] == 34
        finally:
            stop.set()
            for thread in threads:
                thread.join()


def test_memory_is_given_back_when_nothing_is_to_be_done(found: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("isoflop.serve.engine._IDLE", 0.05)
    served = toy_served(found)
    with running(served) as client:
        client.complete([[1] * 20, [2] * 9], max_tokens=3, ignore_eos=True)
        wait_for(lambda: served.engine.reserved == 0)
        assert served.engine._batch.layers[0]._held.numel() == 0  # type: ignore[attr-defined]
        assert client.text("a", max_tokens=2, ignore_eos=True) is not None


def test_the_cache_never_takes_more_than_its_limit(found: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    served = toy_served(found, Room(rows=8, context=64, tokens=150, waiting=90))
    batch, most = served.engine._batch, [0]
    reserve = batch.reserve
    monkeypatch.setattr(batch, "reserve", lambda rows, n: (most.append(rows * n), reserve(rows, n))[1])
    with running(served) as client:
        prompts = [[i] * (1 + 5 * i % 50) for i in range(1, 30)]
        client.complete(prompts, max_tokens=8, ignore_eos=True)
    assert 64 < max(most) <= 150


def test_log_probabilities_are_counted_before_they_are_made(found: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("isoflop.serve.app.NOTED", 200)
    with running(toy_served(found)) as client:
        status, _, words = refused(client, COMPLETIONS, {**GOOD, "logprobs": 4, "echo": True, "prompt": [1] * 40})
        assert (status, words) == (400, "210 log-probabilities may have to be given; at most 200 are in one request")
        for _ in range(5):
            client.complete([1] * 30, max_tokens=2, logprobs=4, echo=True)


def test_an_engine_that_has_ended_takes_nothing(served: ServedModel) -> None:
    engine = Engine(lambda: served.engine._batch, ROOM, 304, 0)
    assert not engine.alive
    assert engine.stop(0)


@pytest.mark.slow
def test_a_stream_that_nobody_reads_is_given_up(found: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    """More is written than fits between the two: neither the request nor its connection may last."""
    monkeypatch.setattr("isoflop.serve.app._MARGIN", 0.5)
    monkeypatch.setattr("isoflop.serve.connections._LINGER", 1.0)
    served = toy_served(found, Room(rows=32, context=64, tokens=32 * 64, waiting=99))
    fronts, made = list[Front](), Front.__init__
    monkeypatch.setattr(Front, "__init__", lambda self, *given: (fronts.append(self), made(self, *given))[1])
    with running(served, limits=Limits(seconds=12, body_seconds=1)) as client:
        body = json.dumps({**GOOD, "max_tokens": 60, "n": 100, "logprobs": 20, "stream": True}).encode()
        with client.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.sendall(head(f"content-length: {len(body)}") + body)
            wait_for(lambda: served.engine.running > 0)
            wait_for(lambda: served.engine.running + served.engine.waiting == 0, 60)
            wait_for(lambda: fronts[0]._noted == 0, 60)
            wait_for(lambda: "isoflop_connections 1\n" in client.ask("/metrics")[1], 60)

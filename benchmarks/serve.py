"""Tokens a second of the server at 1, 8 and 32 connections, beside transformers' ``generate`` behind the same server.

    python benchmarks/serve.py [--shape middle] [--repeats 3] [--json benchmarks/results/serve.json]

Every side is a process of its own with one thread: the same HTTP code, the same Llama with the same weights in fp32,
and in the scheduler's place either ours (continuous batching), a loop that calls ``generate`` for one request after
another ("loop"), or one that takes all who wait, up to as many as ours has slots, pads them and calls it for all
("batches", which nobody joins or leaves before the last is done). Each connection asks for one completion after
another: 16 ids, and 32 to 128 new ones, greedily; what is asked is the same for every side, and so must be the texts.
Sides take turns, and medians are compared. Rates are tokens over seconds of the server's processor time, since other
work on the machine lengthens the others; those by the clock are kept beside. Run it where transformers is installed.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import random
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict
from http.client import HTTPConnection
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from generate import PROMPT, SHAPES, Shape, llama, ours
from isoflop.core.files import write_json
from isoflop.data.tokenizing import Pieces
from isoflop.serve.app import Front, Limits
from isoflop.serve.engine import Engine
from isoflop.serve.room import Room, Tally
from isoflop.serve.sequence import Failed, Growing, Job, News, TokenNote
from isoflop.serve.served import ServedModel
from isoflop.serve.server import Door, HttpServer
from isoflop.store.environment import environment

SIDES = ("ours", "loop", "batches")
SLOTS, CONTEXT = 32, 256
LEAST, MOST = 32, 128
REQUESTS = {1: 3, 8: 16, 32: 48}
"""Requests of one turn, by connections."""
GATE = 2.0
"""Least ratio of our tokens a second to the loop's at 8 connections."""


class Numbers(Pieces):
    """Every id reads as its number."""

    def __init__(self, vocab: int) -> None:
        super().__init__([f"{i} ".encode() for i in range(vocab)], eot=0)

    def encode(self, text: str) -> Any:
        raise NotImplementedError


class GenerateLoop:
    """transformers' ``generate`` in the place of ``serve.engine.Engine``.

    Args:
        model: of transformers.
        ids: its vocabulary.
        most: requests that are generated together.
    """

    def __init__(self, model: Any, ids: int, most: int) -> None:
        self.room = Room(rows=most, context=CONTEXT, tokens=SLOTS * CONTEXT, waiting=256)
        self.ids, self.tally, self.alive, self.running, self.reserved = ids, Tally(), True, 0, 0
        self._model, self._jobs = model, queue.Queue[Job]()

    @property
    def waiting(self) -> int:
        return self._jobs.qsize()

    def start(self) -> None:
        threading.Thread(target=self._work, daemon=True).start()

    def stop(self, grace: float) -> bool:
        self.alive = False
        return True

    def submit(self, job: Job) -> None:
        self._jobs.put(job)

    def _work(self) -> None:
        while True:
            jobs = [self._jobs.get()]
            while len(jobs) < self.room.rows and not self._jobs.empty():
                jobs.append(self._jobs.get())
            try:
                self._generate(jobs)
            except Exception as error:
                for job in jobs:
                    job.deliver([Failed(error)])

    def _generate(self, jobs: Sequence[Job]) -> None:
        grown: list[Growing] = [job.waiting[0] for job in jobs]
        longest, budget = max(len(each.prompt) for each in grown), max(each.wish.budget for each in grown)
        rows = [[0] * (longest - len(each.prompt)) + list(each.prompt) for each in grown]
        mask = [[0] * (longest - len(each.prompt)) + [1] * len(each.prompt) for each in grown]
        out = self._model.generate(
            torch.tensor(rows),
            attention_mask=torch.tensor(mask),
            max_new_tokens=budget,
            min_new_tokens=budget,
            do_sample=False,
            cache_implementation="dynamic",
            disable_compile=True,
        )
        for job, each, row in zip(jobs, grown, out[:, longest:].tolist(), strict=True):
            news: list[News] = [each.add(TokenNote(i)) for i in row[: each.wish.budget]]
            job.deliver([*news, each.over("length")])
            self.tally.new_tokens += each.wish.budget


def serve(side: str, shape: Shape) -> None:
    """Be one side's server; its port is printed."""
    torch.set_num_threads(1)
    model = ours(shape, "fp32")
    room = Room(rows=SLOTS, context=CONTEXT, tokens=SLOTS * CONTEXT, waiting=256)
    engine: Any
    if side == "ours":
        engine = Engine(model.prepared(SLOTS).make_slots, room, shape.vocab, eot=-1)
    else:
        engine = GenerateLoop(llama(shape, "fp32", model.state_dict()), shape.vocab, SLOTS if side == "batches" else 1)
    served = ServedModel("model", Numbers(shape.vocab), engine)
    door = Door(port=0)
    opened = door.open()
    server = HttpServer(Front([served], Limits(seconds=3600)), door)
    server.run(opened, lambda: print(opened.getsockname()[1], flush=True))


class Side:
    """A server in a process of its own.

    Args:
        name: which.
        shape: of its model.
    """

    def __init__(self, name: str, shape: str) -> None:
        command = [sys.executable, __file__, "--serve", name, "--shape", shape]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    def cpu(self) -> float:
        """Seconds of processor time that it has used."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def ask(self, connections: int, requests: Sequence[tuple[list[int], int]]) -> list[str]:
        """The texts of requests, asked over so many connections."""
        found, left = [""] * len(requests), queue.Queue[int]()
        for i in range(len(requests)):
            left.put(i)

        def client() -> None:
            connection = HTTPConnection("127.0.0.1", self.port, timeout=3600)
            while True:
                try:
                    i = left.get_nowait()
                except queue.Empty:
                    return
                prompt, new = requests[i]
                body = {"model": "model", "prompt": prompt, "max_tokens": new, "temperature": 0, "ignore_eos": True}
                headers = {"content-type": "application/json"}
                connection.request("POST", "/v1/completions", json.dumps(body), headers)
                found[i] = json.loads(connection.getresponse().read())["choices"][0]["text"]

        threads = [threading.Thread(target=client) for _ in range(connections)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return found

    def end(self) -> None:
        self._process.terminate()
        self._process.wait()


def measure(sides: dict[str, Side], connections: int, vocab: int, repeats: int) -> dict[str, Any]:
    """Tokens a second of each side, and the ratio of ours to each other one."""
    draw = random.Random(connections)
    requests = [
        ([draw.randrange(1, vocab) for _ in range(PROMPT)], draw.randint(LEAST, MOST))
        for _ in range(REQUESTS[connections])
    ]
    tokens = sum(new for _, new in requests)
    rates: dict[str, list[float]] = {name: [] for name in sides}
    clock: dict[str, list[float]] = {name: [] for name in sides}
    texts = {name: side.ask(1, requests[:1]) for name, side in sides.items()}  # a first, untimed one
    assert len({text[0] for text in texts.values()}) == 1, "the sides write different tokens"
    for turn in range(repeats):
        said = {}
        for name in list(sides) if turn % 2 else reversed(sides):
            cpu, start = sides[name].cpu(), time.perf_counter()
            said[name] = sides[name].ask(connections, requests)
            rates[name].append(tokens / (sides[name].cpu() - cpu))
            clock[name].append(tokens / (time.perf_counter() - start))
        assert all(texts == said["ours"] for texts in said.values()), "the sides write different tokens"
    medians = {name: statistics.median(found) for name, found in rates.items()}
    by_clock = {name: statistics.median(found) for name, found in clock.items()}
    return {
        "connections": connections,
        "requests": len(requests),
        "new_tokens": tokens,
        "tokens_per_cpu_second": medians,
        "tokens_per_second": by_clock,
        "spread": {name: max(found) / min(found) for name, found in rates.items()},
        "ratio": {name: medians["ours"] / rate for name, rate in medians.items() if name != "ours"},
        "ratio_by_the_clock": {name: by_clock["ours"] / rate for name, rate in by_clock.items() if name != "ours"},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="middle")
    parser.add_argument("--connections", nargs="+", type=int, choices=REQUESTS, default=list(REQUESTS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--serve", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    shape = SHAPES[arguments.shape]
    if arguments.serve:
        serve(arguments.serve, shape)
        return
    load, rows = os.getloadavg()[0], []
    sides = {name: Side(name, arguments.shape) for name in SIDES}
    try:
        for connections in arguments.connections:
            row = measure(sides, connections, shape.vocab, arguments.repeats)
            rows.append(row)
            rate = {name: round(x) for name, x in row["tokens_per_cpu_second"].items()}
            gate = f"  gate {GATE}x the loop" if connections == 8 else ""
            ratios = ", ".join(f"{ratio:.2f}x {name}" for name, ratio in row["ratio"].items())
            print(f"{connections:2} connections: {ratios}  {rate} tokens/cpu-s{gate}", flush=True)
            if arguments.json:
                keep(arguments.json, shape, load, rows)
    finally:
        for side in sides.values():
            side.end()


def keep(path: Path, shape: Shape, load: float, rows: list[dict[str, Any]]) -> None:
    """Write what was measured so far."""
    result = {
        "environment": {**environment(), "transformers": version("transformers")},
        "load_before": load,
        "load_after": os.getloadavg()[0],
        "shape": asdict(shape),
        "slots": SLOTS,
        "prompt": PROMPT,
        "new": [LEAST, MOST],
        "rows": rows,
    }
    write_json(path, json.loads(json.dumps(result, default=str)))


if __name__ == "__main__":
    main()

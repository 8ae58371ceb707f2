"""The worker process of a study: reads jobs as JSON lines on stdin, trains them one after another, answers each.

``workers.py`` starts it with one thread, a session and a module path of its own. A job is ``{"recipe": ..., "branch":
..., "root": ..., "workers": ..., "track": [...], "group": ...}``; its answer is one line of JSON, a ``JobResult``.
Answers go to the file descriptor that the last argument names and never to stdout, where anything may write: site
hooks, plugins, libraries. When stdin ends (the parent has gone) or on SIGTERM the present run saves its state and
stops.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from ..core.device import peak_memory
from ..core.documents import Frozen
from ..core.errors import IsoflopError, NumericsError, Stopped, trace
from ..core.recipe import Recipe
from ..store.run import Run


class JobResult(Frozen):
    """How a job ended; ``message`` and ``exit_code`` are those of an error.

    Example:
        >>> JobResult(status="error", message="the disk is full", exit_code=4).status
        'error'
    """

    status: Literal["done", "diverged", "stopped", "error"]
    message: str = ""
    exit_code: int = 0


def train_job(job: dict[str, Any]) -> None:
    """Train one job's recipe, or go on with it; the run's events say beside how many others, and for how long."""
    from ..train.run import train
    from .tracking import Trackers

    recipe, root = Recipe.from_json(job["recipe"]), Path(job["root"])
    run, follower = Run.open(root, recipe), Trackers(job.get("track", ()), job.get("group", ""))
    run.event("started", workers=job["workers"])
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        branch = job.get("branch")
        train(recipe, root, threads=1, follower=follower, lengthens=branch is not None, branch=branch or 0)
    finally:
        spent = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
        run.event("ended", **spent, memory_bytes=peak_memory())


def answer(task: Callable[[dict[str, Any]], None], job: dict[str, Any]) -> JobResult:
    """Do a job and describe how it ended."""
    try:
        task(job)
    except NumericsError:
        return JobResult(status="diverged")
    except Stopped:
        return JobResult(status="stopped")
    except IsoflopError as error:
        trace()
        return JobResult(status="error", message=str(error), exit_code=error.exit_code)
    except Exception as error:
        trace()
        what = f"unexpected {type(error).__name__}: {error}; run `isoflop --debug ...` for where"
        return JobResult(status="error", message=what, exit_code=1)
    return JobResult(status="done")


def serve(task: Callable[[dict[str, Any]], None] = train_job) -> None:
    """JobResult jobs until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides; it sends SIGTERM
    replies = os.fdopen(int(sys.argv[-1]), "w", encoding="utf-8")
    jobs: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(jobs,), daemon=True).start()
    while line := jobs.get():
        reply = answer(task, json.loads(line))
        try:
            replies.write(reply.model_dump_json() + "\n")
            replies.flush()
        except BrokenPipeError:
            return


def _listen(jobs: queue.SimpleQueue[str]) -> None:
    for line in sys.stdin:
        jobs.put(line)
    jobs.put("")
    os.kill(os.getpid(), signal.SIGTERM)  # a run in progress saves and stops; an idle process just ends

"""Kill a process at every call it makes to the file system, and look at what is left. It forks: run it in a process
of its own that has no threads."""

from __future__ import annotations

import builtins
import io
import os
import shutil
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from isoflop.store.run import Run

CALLS = ("open", "mkdir", "rename", "replace", "fsync", "unlink", "remove", "rmdir", "ftruncate", "write")
Act = Callable[[Path], object]


def killed_before_call(number: int, act: Act, where: Path) -> bool:
    """Do ``act(where)`` in a child that SIGKILLs itself before its file system call ``number``; False: it ended."""
    child = os.fork()
    if child == 0:
        calls = 0

        def counted(call: Callable[..., Any]) -> Callable[..., Any]:
            def wrapper(*args: Any, **kwargs: Any) -> Any:
                nonlocal calls
                if calls == number:
                    os.kill(os.getpid(), signal.SIGKILL)
                calls += 1
                return call(*args, **kwargs)

            return wrapper

        for name in CALLS:
            setattr(os, name, counted(getattr(os, name)))
        io.open = builtins.open = counted(builtins.open)  # type: ignore[assignment]
        try:
            act(where)
        except BaseException:
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    if os.WEXITSTATUS(status):
        raise AssertionError(f"the action failed undisturbed by the kill at call {number}")
    return False


def at_every_call(prepare: Act, act: Act, check: Callable[[Path], object]) -> int:
    """Kill ``act`` before its call 0, 1, 2 ... until it gets through, each time in a fresh directory that ``prepare``
    filled; ``check`` looks at it after each kill and at the end. The number of kills."""
    number = 0
    while True:
        where = Path(tempfile.mkdtemp(prefix="killed-"))
        try:
            prepare(where)
            killed = killed_before_call(number, act, where)
            check(where)
        finally:
            shutil.rmtree(where)
        if not killed:
            return number
        number += 1


def rewind(run: Run, step: int) -> None:
    """Make a finished run look as if it had been killed before its last checkpoint, at ``step``."""
    shutil.rmtree(run.path / "checkpoints" / str(step))
    (run.path / "result.json").unlink()
    run.set_status("running")

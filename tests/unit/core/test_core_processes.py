"""Processes that work for another one end with it."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

POOL = """
import os, sys, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from isoflop.core.processes import end_with_parent

def work(path):
    open(path, "w").write(str(os.getpid()))
    time.sleep(600)

if __name__ == "__main__":
    with ProcessPoolExecutor(1, get_context("spawn"), end_with_parent) as pool:
        pool.submit(work, sys.argv[1]).result()
"""


def test_a_killed_process_leaves_none_of_its_pool_behind(tmp_path: Path) -> None:
    (tmp_path / "pool.py").write_text(POOL)
    told = tmp_path / "pid"
    with subprocess.Popen([sys.executable, str(tmp_path / "pool.py"), str(told)]) as parent:
        while not (told.exists() and told.read_text()):
            time.sleep(0.01)
        parent.kill()
    place, late = Path("/proc") / told.read_text(), time.monotonic() + 20
    while place.exists() and place.joinpath("stat").read_text().split()[2] != "Z":
        assert time.monotonic() < late, "it still waits for work"
        time.sleep(0.01)

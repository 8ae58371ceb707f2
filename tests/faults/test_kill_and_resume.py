"""SIGKILL at any instant, the same command again: the same bytes at the end."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from isoflop.store.run import Run

# Trains in a child that kills itself at the n-th of the operations that make up a checkpoint's commit.
KILLED_INSIDE_A_COMMIT = """
import os, pathlib, signal, sys
from isoflop.store import checkpoint
left = [int(sys.argv[1])]
inside = [0]
def count(function):
    def counted(*args, **kwargs):
        if inside[0]:
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return counted
os.fsync = count(os.fsync)
os.open = count(os.open)
pathlib.Path.rename = count(pathlib.Path.rename)
pathlib.Path.open = count(pathlib.Path.open)
pathlib.Path.write_text = count(pathlib.Path.write_text)
commit = checkpoint.commit
def committing(*args, **kwargs):
    inside[0] += 1
    try:
        return commit(*args, **kwargs)
    finally:
        inside[0] -= 1
checkpoint.commit = committing
from isoflop.cli.main import run
run(sys.argv[2:])
"""


def command(recipe: Path, root: Path, name: str) -> list[str]:
    return ["train", str(recipe), "--root", str(root), "--name", name, "--threads", "1"]


def start(arguments: list[str], kill_at: int | None = None) -> subprocess.Popen[bytes]:
    head = ["-m", "isoflop"] if kill_at is None else ["-c", KILLED_INSIDE_A_COMMIT, str(kill_at)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *head, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    )


def digest(root: Path, name: str) -> str:
    run = Run.read(root / name)
    assert run.state == "done"
    steps = [record["step"] for record in run.metrics("step")]
    assert steps == sorted(set(steps)), "a step was recorded twice"
    return str(run.result["weights_sha256"])


def survives(recipe: Path, root: Path, name: str, kill: Callable[[], int]) -> bool:
    """Kill the run once, run the same command again; whether the kill came before the end."""
    code = kill()
    assert start(command(recipe, root, name)).wait() == 0
    return code == -signal.SIGKILL


@pytest.fixture
def undisturbed(tiny: Callable[..., Path], tmp_path: Path) -> tuple[Path, Path, str, float]:
    """Recipe, root, digest of the final weights, and seconds of a run that nobody disturbs."""
    recipe = tiny("budget.steps=40", "train.checkpoints=8", "averaging=ema")
    root = tmp_path / "runs"
    assert start(command(recipe, root, "warm")).wait() == 0  # fills the shared cache
    began = time.monotonic()
    assert start(command(recipe, root, "undisturbed")).wait() == 0
    return recipe, root, digest(root, "undisturbed"), time.monotonic() - began


def test_killed_inside_a_commit_and_run_again_it_ends_with_the_same_bytes(
    undisturbed: tuple[Path, Path, str, float],
) -> None:
    recipe, root, expected, _ = undisturbed
    assert digest(root, "warm") == expected
    killed = survives(recipe, root, "killed", lambda: start(command(recipe, root, "killed"), kill_at=17).wait())
    assert killed
    assert digest(root, "killed") == expected


@pytest.mark.slow
def test_twenty_kills_end_with_the_same_bytes(undisturbed: tuple[Path, Path, str, float]) -> None:
    recipe, root, expected, seconds = undisturbed
    draw = random.Random(5)
    inside = 0
    for number in range(10):  # inside a commit: a commit takes a few dozen operations, so these hit several commits
        name, at = f"inside-{number}", draw.randrange(0, 150)
        inside += survives(recipe, root, name, lambda n=name, a=at: start(command(recipe, root, n), kill_at=a).wait())
        assert digest(root, name) == expected
    assert inside == 10
    for number in range(10):
        name = f"anywhere-{number}"

        def kill(name: str = name) -> int:
            process = start(command(recipe, root, name))
            time.sleep(draw.uniform(0.3, 1.0) * seconds)
            process.kill()
            return process.wait()

        survives(recipe, root, name, kill)
        assert digest(root, name) == expected


PCFG = '{name="pcfg", text_bytes=20000, heldout_bytes=300}'
STATEFUL = {
    "a stream that listens": (f'source={{name="progressive", phases=4, source={PCFG}}}', "objective=masked"),
    "parameters that an objective owns": (f"source={PCFG}", "objective={name='flexmdm', times=4}"),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", STATEFUL)
def test_what_diffusion_keeps_survives_a_kill(kind: str, tiny: Callable[..., Path], tmp_path: Path) -> None:
    recipe = tiny("budget.steps=24", "train.checkpoints=8", "train.accumulate=2", *STATEFUL[kind])
    root = tmp_path / "runs"
    assert start(command(recipe, root, "undisturbed")).wait() == 0
    assert survives(recipe, root, "killed", lambda: start(command(recipe, root, "killed"), kill_at=70).wait())
    assert digest(root, "killed") == digest(root, "undisturbed")

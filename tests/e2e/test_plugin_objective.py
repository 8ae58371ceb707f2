"""An objective is added by one file of somebody else's: trained, audited, killed and resumed, summed with others."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from isoflop.store.run import Run
from plugin_files import one_file

PLUGIN = '''
"""The loss of the next token, warmed up: what it has seen is its state."""

import os
import signal
from typing import Any

from isoflop.core.contracts import Likelihood, Loss, ObjectivePart, Stateful
from isoflop.core.registry import Card, part
from isoflop.objectives.linear_cross_entropy import linear_cross_entropy


class WarmedUp:
    bound = False

    def __init__(self, policy: Any, base: float) -> None:
        self.policy, self.base, self.seen = policy, base, 0

    def loss(self, batch: Any) -> Loss:
        if str(self.seen) == os.environ.get("KILL_AT"):
            os.kill(os.getpid(), signal.SIGKILL)
        self.seen += 1
        total = linear_cross_entropy(self.policy.hidden(batch.inputs), self.policy.head, batch.targets, batch.mask)
        return Loss((1 - self.base**self.seen) * total, {"plain": total.detach()})

    def nll(self, batch: Any) -> Loss:
        total = linear_cross_entropy(self.policy.hidden(batch.inputs), self.policy.head, batch.targets, batch.mask)
        return Loss(total, spent={"evaluation": self.policy.flops(*batch.inputs.shape).forward})

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seen = state["seen"]


@part
class WarmedUpPart(ObjectivePart):
    """The loss of the next token, warmed up."""

    base: float = 0.8
    card = Card(summary="The loss of the next token, warmed up")
    provides = frozenset({Likelihood, Stateful})

    def build(self, ctx: Any) -> WarmedUp:
        return WarmedUp(ctx.policy, self.base)
'''
ALONE = 'objective={name="somebodys_method", base=0.7}'
SUMMED = 'objective={name="weighted", terms=[{objective="somebodys_method"}, {objective="masked", weight=0.1}]}'


@pytest.mark.parametrize("objective", [pytest.param(ALONE, marks=pytest.mark.slow), SUMMED])
def test_one_file_is_trained_audited_and_resumed_to_the_same_bytes(
    objective: str, tiny: Callable[..., Path], tmp_path: Path
) -> None:
    environment = one_file(tmp_path / "plugin", PLUGIN)
    recipe = tiny("budget.steps=6", "train.checkpoints=3")

    def run(name: str, **settings: str) -> int:
        env = {**environment, **settings}
        where = ["--root", str(tmp_path / "runs"), "--name", name, "--threads", "1", "--audit"]
        done = subprocess.run(
            [sys.executable, "-m", "isoflop", "train", str(recipe), objective, *where],
            env=env, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        return done.returncode

    def result(name: str) -> str:
        return str(Run.read(tmp_path / "runs" / name).result["weights_sha256"])

    assert run("whole") == 0
    assert run("killed", KILL_AT="5") == -signal.SIGKILL
    assert run("killed") == 0
    assert result("killed") == result("whole")
    killed = Run.read(tmp_path / "runs" / "killed")
    assert [event["step"] for event in killed.events("resumed")] == [4]

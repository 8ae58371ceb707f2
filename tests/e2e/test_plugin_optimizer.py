"""The contributor's guide's optimizer as somebody else's one file: trained, audited, killed within a step, resumed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from isoflop.store.run import Run

ROOT = Path(__file__).parents[2]
MORTAL = """

import itertools
import os
import signal

_calls, _update_group = itertools.count(), MomentumSign.update_group


def _mortal(self, group, params):
    step, done = divmod(next(_calls), len(self.param_groups))
    if (str(step), done) == (os.environ.get("KILL_AT"), 1):
        os.kill(os.getpid(), signal.SIGKILL)
    _update_group(self, group, params)


MomentumSign.update_group = _mortal
"""
"""Dies in step KILL_AT (from 0; the audit's count), when one group of parameters is updated and the others are not."""


def test_one_file_is_trained_audited_and_resumed_to_the_same_bytes(tiny: Callable[..., Path], tmp_path: Path) -> None:
    code = re.search(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
    assert code is not None
    plugin = tmp_path / "plugin"
    (plugin / "momentum_sign-1.0.dist-info").mkdir(parents=True)
    (plugin / "momentum_sign.py").write_text(code[1] + MORTAL)
    (plugin / "momentum_sign-1.0.dist-info/METADATA").write_text(
        "Metadata-Version: 2.1\nName: momentum_sign\nVersion: 1.0\n"
    )
    (plugin / "momentum_sign-1.0.dist-info/entry_points.txt").write_text("[isoflop.parts]\nsign = momentum_sign\n")
    recipe = tiny("budget.steps=6", "train.checkpoints=3")

    def run(name: str, **settings: str) -> int:
        paths = os.pathsep.join(filter(None, [str(plugin), os.environ.get("PYTHONPATH")]))
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths, "ISOFLOP_PLUGINS": "sign", **settings}
        where = ["--root", str(tmp_path / "runs"), "--name", name, "--threads", "1", "--audit"]
        done = subprocess.run(
            [sys.executable, "-m", "isoflop", "train", str(recipe), "optimizer=momentum_sign", *where],
            env=env, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        return done.returncode

    assert run("whole") == 0
    assert run("killed", KILL_AT="5") == -signal.SIGKILL
    assert run("killed") == 0
    whole, killed = (Run.read(tmp_path / "runs" / name) for name in ("whole", "killed"))
    assert killed.result["weights_sha256"] == whole.result["weights_sha256"]
    assert [event["step"] for event in killed.events("resumed")] == [2], "three of the five steps were the audit's"

"""A new method is ONE file: in a plugin of somebody else's it trains under audit, and survives a SIGKILL to the byte.

To hold another slot to this, add a row to ``ROWS``; plugins of several slots train together, which costs one run.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from plugin_files import files, one_file


class Row(NamedTuple):
    """A plugin's file, and the overrides that choose its part ``mine``."""

    source: str
    overrides: tuple[str, ...]


PAGE = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()
OPTIMIZER, SCHEDULE = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
ROWS = {
    "optimizer": Row(OPTIMIZER, ("optimizer=optimizer_method",)),  # a part without a name has its file's
    "schedule": Row(SCHEDULE, ('schedule={name="schedule_method", period=7}',)),
    "norm": Row(
        """
import torch
from isoflop.core.contracts import NormPart
from isoflop.core.cost import Cost, Work
from isoflop.core.registry import Card, part
from isoflop.core.roles import Shape

class Largest(torch.nn.Module):
    role = "norm"
    def __init__(self, width, eps):
        super().__init__()
        self.eps, self.weight = eps, torch.nn.Parameter(torch.ones(width))
    def forward(self, x, dtype):
        return (x / (x.abs().amax(-1, keepdim=True) + self.eps) * self.weight).to(dtype)

@part
class LargestPart(NormPart):
    name = "mine"
    card = Card(summary="Divides a vector by its largest magnitude")
    def build(self, width, eps): return Largest(width, eps)
    def shapes(self, width): return [Shape("weight", "norm", (width,))]
    def work(self, tokens, width):
        one = Cost(elementwise=4 * tokens * width)
        return Work(forward=one, backward=2 * one)
""",
        ("model.norm=mine",),
    ),
    "pattern": Row(
        '''
from isoflop.core.contracts import Pattern
from isoflop.core.registry import Card, part

@part
class Strided(Pattern):
    """Every position sees itself and each third one before it."""
    name = "mine"
    card = Card(summary="Every third position")
    stride: int = 3
    def sees(self, queries, keys): return (queries - keys) % self.stride == 0
''',
        ('model.mixer=[{name="attention", heads=2, pattern={name="mine", stride=2}}, {name="attention", heads=2}]',),
    ),
    "parametrization": Row(
        """
import torch
from torch.nn import functional as F
from isoflop.core.contracts import ParametrizationPart
from isoflop.core.cost import Cost, Work
from isoflop.core.registry import Card, part
from isoflop.core.roles import Shape, new_role
from isoflop.ledger import formulas

SCALE = new_role("row_scale", decays=False)

class RowScale(torch.nn.Module):
    role = SCALE
    def __init__(self, rows):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(rows))
    def finalize(self, weight): return weight * self.scale[:, None]
    def product(self, weight, dtype):
        cast = self.finalize(weight).to(dtype)
        return lambda x: F.linear(x, cast)

@part
class RowScalePart(ParametrizationPart):
    name = "mine"
    card = Card(summary="A learned scale a row")
    def build(self, rows, columns, rng): return RowScale(rows)
    def shapes(self, rows, columns): return [Shape("scale", SCALE, (rows,))]
    def work(self, tokens, rows, columns, *, trained, live, own):
        needed = trained or "scale" in own
        scaled = Work(forward=Cost(elementwise=rows * columns))
        return scaled + formulas.linear(tokens, columns, rows, input_gradient=live, weight_gradient=needed)
""",
        ("parametrization=mine",),
    ),
}
"""Slot -> its row."""


def start(arguments: list[str], environment: dict[str, str]) -> subprocess.Popen[str]:
    head = [sys.executable, "-m", "isoflop"]
    return subprocess.Popen(
        [*head, *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(process: subprocess.Popen[str]) -> None:
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said


def killed_after_a_checkpoint(process: subprocess.Popen[str], run: Path) -> bool:
    """SIGKILL as soon as the run has a checkpoint; whether it had not ended by then."""
    while process.poll() is None and not any((run / "checkpoints").glob("[0-9]*")):
        time.sleep(0.002)
    process.kill()
    process.communicate()
    return not (run / "result.json").exists()


def test_a_file_a_slot_trains_under_audit_and_resumes_to_the_same_bytes(
    tiny: Callable[..., Path], tmp_path: Path
) -> None:
    environment = files(tmp_path / "plugins", {slot: row.source for slot, row in ROWS.items()})
    overrides, root = [text for row in ROWS.values() for text in row.overrides], tmp_path / "runs"
    recipe = str(tiny("budget.steps=120", "train.checkpoints=12", "model.layers=2"))

    def command(name: str, *flags: str) -> list[str]:
        return ["train", recipe, *overrides, "--root", str(root), "--name", name, "--threads", "1", *flags]

    finish(start(command("undisturbed", "--audit"), environment))
    assert killed_after_a_checkpoint(start(command("killed"), environment), root / "killed")
    finish(start(command("killed"), environment))
    results = []
    for name in ("undisturbed", "killed"):
        result = json.loads((root / name / "result.json").read_text())
        assert result["status"] == "done"
        results.append(result["weights_sha256"])
    assert results[0] == results[1]


def test_the_pages_package_declares_its_modules() -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    package = tomllib.loads(text)
    modules = package["tool"]["setuptools"]["py-modules"]
    assert list(package["project"]["entry-points"]["isoflop.parts"].values()) == modules
    assert all(f"/{module}.py`" in PAGE for module in modules)


def test_a_plugin_that_is_installed_and_not_enabled_is_hinted_at(tmp_path: Path) -> None:
    environment = one_file(tmp_path / "plugin", OPTIMIZER)
    for enabled, hinted in (("", True), ("somebodys", False)):
        done = subprocess.run(
            [sys.executable, "-m", "isoflop", "show", "optimizer", "nobodys_method"],
            env={**environment, "ISOFLOP_PLUGINS": enabled}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 2
        assert (
            "installed but not enabled: somebodys (ISOFLOP_PLUGINS=somebodys enables them)" in done.stderr
        ) == hinted

"""Every example runs and prints what it promises."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
PROMISES = {
    "multiplier_of_your_runs.py": r"2\.\d\dx the compute \[\d\.\d\d, \d\.\d\d\] at 95 %",
    "optimizer_in_your_loop.py": r"last\s+: loss 0\.\d+",
}


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_an_example_runs(name: str, tmp_path: Path) -> None:
    arguments = [sys.executable, str(EXAMPLES / name)]
    done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert re.search(PROMISES[name], done.stdout), done.stdout

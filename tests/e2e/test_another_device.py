"""The checks of ``another_device.py``, in a process of their own: autograd counts devices at its first backward."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_everything_works_where_tensors_do_not_live_on_the_cpu() -> None:
    checks = str(Path(__file__).with_name("another_device.py"))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", checks]
    job = subprocess.run(command, capture_output=True, text=True, check=False)
    assert job.returncode == 0, job.stdout + job.stderr

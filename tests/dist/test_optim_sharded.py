"""Two ranks of FSDP2 take the same steps as one process, for every optimizer that shards."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_two_ranks_are_one_process() -> None:
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        "--local-addr=localhost",
    ]
    script = str(Path(__file__).parent / "optim_shards.py")
    done = subprocess.run(
        [*command, script], env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert "SOAP ok" in done.stdout

"""Reading a published model takes little more memory than its file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from published_toys import directory

READ = """
import sys
from pathlib import Path
from isoflop.models.hf.directory import load
import isoflop.models.feed_forwards.swiglu, isoflop.models.mixers.attention, isoflop.models.transformer

def memory(key):
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024

Path("/proc/self/clear_refs").write_text("5")
before = memory("VmRSS")
model, _ = load(sys.argv[1], precision=sys.argv[2])
sum(float(p.sum()) for p in model.parameters())
print(memory("VmHWM") - before)
"""
SLACK = 12 << 20
"""What the parts, and torch's first sums, take besides."""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the system does not tell peaks of memory")
@pytest.mark.parametrize(("dtype", "precision"), [(torch.float32, "fp32"), (torch.bfloat16, "bf16")])
def test_the_peak_is_below_a_third_more_than_the_file(dtype: torch.dtype, precision: str, tmp_path: Path) -> None:
    wide = {"hidden_size": 512, "intermediate_size": 1536, "vocab_size": 16384, "num_hidden_layers": 8}
    source = directory(tmp_path, "llama", dtype=dtype, num_attention_heads=8, **wide)
    size = (source / "model.safetensors").stat().st_size
    done = subprocess.run(
        [sys.executable, "-c", READ, str(source), precision], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 1.3 * size + SLACK

"""What a process says of its machine and of itself."""

from __future__ import annotations

import subprocess
import sys

import pytest

from isoflop.core.device import peak_memory, physical_memory


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system counts no other way")
def test_a_childs_peak_is_not_its_parents() -> None:
    held = bytearray(b"x" * (400 << 20))
    code = "from isoflop.core.device import peak_memory; print(peak_memory())"
    childs = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert 1 << 20 < childs < 200 << 20
    assert len(held) < peak_memory() < physical_memory()

"""Where a convolution's blocks end is timed once, and kept where a broken file does no harm."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from isoflop.models import crossover


@pytest.mark.parametrize("kept", [None, "", "[1, 2]", "[" * 100_000, '{"a": "b"}', "\x00"])
def test_a_file_that_is_none_of_ours_is_written_anew(
    kept: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(crossover, "timed", lambda *given: None)
    monkeypatch.setattr(crossover, "quickest_block", lambda seconds: crossover.SIZES[1])
    crossover._block_of.cache_clear()
    file = tmp_path / "isoflop" / "convolution_blocks.json"
    if kept is not None:
        file.parent.mkdir()
        file.write_text(kept)
    assert crossover.block_of(torch.zeros(4, 8)) == crossover.SIZES[1]
    assert list(json.loads(file.read_text()).values()) == [crossover.SIZES[1]]
    monkeypatch.setattr(crossover, "quickest_block", lambda seconds: crossover.SIZES[0])
    crossover._block_of.cache_clear()
    assert crossover.block_of(torch.zeros(4, 8)) == crossover.SIZES[1], "what was timed is kept"
    crossover._block_of.cache_clear()

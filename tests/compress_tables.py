"""Reference values of compression that other programs made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch


def tables(shared: Path, name: str) -> dict[str, torch.Tensor]:
    """The arrays of a file of reference values; the test is skipped where it is absent."""
    path = shared / "data/compress" / name
    if not path.exists():
        pytest.skip(f"no {name} below ISOFLOP_SHARED/data/compress")
    with np.load(path) as stored:
        return {key: torch.from_numpy(stored[key]) for key in stored.files}

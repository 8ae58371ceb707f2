"""Fixtures that every suite may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference data; tests that need it skip where it is absent."""
    path = Path(os.environ.get("ISOFLOP_SHARED", ROOT.parent / "shared"))
    if not (path / "data").is_dir():
        pytest.skip("reference data not found: set ISOFLOP_SHARED to its folder")
    return path

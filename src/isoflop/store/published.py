"""Whether a directory is a published model's. No torch, nothing is read."""

from __future__ import annotations

import os
from pathlib import Path

CONFIG = "config.json"
"""The file that every Hugging Face directory has."""


def is_published(directory: Path) -> bool:
    """Whether a directory looks like a published model's: it has a ``config.json``, and is no run and no checkpoint."""
    lies = os.path.lexists
    return lies(directory / CONFIG) and not any(lies(directory / own) for own in ("resolved.json", "MANIFEST.json"))

"""Whether a directory is a published model's. No torch, nothing is read."""

from __future__ import annotations

import os
from pathlib import Path

CONFIG = "config.json"
"""The file that every Hugging Face directory has."""


ADAPTER_CONFIG = "adapter_config.json"
"""The file that every adapter of PEFT's has."""


def is_adapter(directory: Path) -> bool:
    """Whether a directory looks like an adapter's, as PEFT stores them."""
    return os.path.lexists(directory / ADAPTER_CONFIG)


def is_published(directory: Path) -> bool:
    """Whether a directory looks like a published model's: it has a ``config.json``, and is no run and no checkpoint."""
    lies = os.path.lexists
    return lies(directory / CONFIG) and not any(lies(directory / own) for own in ("resolved.json", "MANIFEST.json"))

"""What a script leaves that measures something neither a study nor a pipeline can ask for."""

from __future__ import annotations

from typing import Any, Literal

from ..core.documents import Frozen


class MeasuredResult(Frozen):
    """Values by name, one a seed.

    Example:
        >>> made = dict(name="cosines", created="2026-01-01T00:00:00+00:00", environment={}, cpu_seconds=1.5)
        >>> MeasuredResult(**made, values={"cosine": [0.93, 0.95, 0.94]}, script="0" * 64).values["cosine"][0]
        0.93
    """

    schema_version: Literal[1] = 1
    name: str
    created: str
    values: dict[str, list[float]]
    """Name -> value of each seed."""
    notes: list[str] = []
    script: str
    """SHA-256 of the script's text."""
    environment: dict[str, Any]
    cpu_seconds: float
    """Processor seconds of the script."""

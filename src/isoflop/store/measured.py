"""What a script leaves that measures something neither a study nor a pipeline can ask for."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, Literal

from ..core.documents import Frozen

MEASURED = "measured.json"
"""The file of a directory that holds what was measured there."""
TARGETS = "targets.json"
"""The file that holds the result of a study of batch sizes, in the directory of its name."""
Family = dict[str, dict[float, list[float]]]
"""Way -> number -> value of each seed."""
_MEMBER = re.compile(r"(?:(.+)_)?([^_]+)_(\d+(?:\.\d+)?)")


class Axes(Frozen):
    """What the members of a family are drawn against.

    Example:
        >>> Axes(across="position", up="microseconds a token").across
        'position'
    """

    across: str
    """What the numbers are that end the names."""
    up: str
    """What the values are, with their unit."""


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
    axes: dict[str, Axes] = {}
    """What some families are drawn against, by what their names begin with."""
    notes: list[str] = []
    script: str
    """SHA-256 of the script's text."""
    environment: dict[str, Any]
    cpu_seconds: float
    """Processor seconds of the script, or of its runs."""
    flops: float | None = None
    """Model FLOPs of all phases of its runs; None: they are not counted."""
    recipes: list[str] = []
    """Recipe hashes of its runs, where it is a study's."""

    def lines(self) -> Iterator[str]:
        """A line for each value, seed by seed, and for each note."""
        for name, values in self.values.items():
            yield f"{name}: {', '.join(f'{value:.4g}' for value in values)}"
        yield from (f"· {note}" for note in self.notes)

    def families(self) -> dict[str, Family]:
        """Values that belong together, by what their names begin with.

        Names of the form WHAT_WAY_NUMBER are a family where several ways were measured, each at several numbers. WHAT
        may be missing: all such names are the family "".

        Example:
            >>> values = {f"bits_{way}_{size}": [2.0] for way in ("nested", "apart") for size in (22, 44)}
            >>> made = dict(name="sizes", created="", environment={}, cpu_seconds=1.5, script="")
            >>> MeasuredResult(**made, values=values).families()["bits"]["apart"]
            {22.0: [2.0], 44.0: [2.0]}
        """
        found: dict[str, Family] = defaultdict(lambda: defaultdict(dict))
        for name, values in self.values.items():
            if values and (parts := _MEMBER.fullmatch(name)):
                found[parts[1] or ""][parts[2]][float(parts[3])] = values
        ways = {what: {way: own for way, own in family.items() if len(own) > 1} for what, family in found.items()}
        return {what: family for what, family in ways.items() if len(family) > 1}

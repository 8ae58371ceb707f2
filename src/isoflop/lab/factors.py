"""A table of two factors: each change alone and both together, and whether together they do more than apart."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import Field, NonNegativeInt, model_validator

from ..core.documents import Section
from ..core.recipe import Name
from ..core.significance import LEVEL
from ..store.results import InteractionRow, MultiplierRow
from .estimate import interval


class Factors(Section):
    """Two changes of the baseline, whose arms the study makes: each alone, and both ("one-and-other").

    Example:
        >>> factors = Factors(changes={"muon": ("optimizer=muon",), "wsd": ("schedule=wsd",)}, rungs=(1,))
        >>> list(factors.arms())
        ['muon', 'wsd', 'muon-and-wsd']
    """

    example = '{ changes = { muon = ["optimizer=muon"], wsd = ["schedule=wsd"] }, rungs = [1] }'

    changes: dict[Name, Annotated[tuple[str, ...], Field(min_length=1)]]
    """Name -> changes to the baseline's recipe, each ``key.path=value``; two names."""
    rungs: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)] = (0,)
    """Rungs that the three arms run at."""

    @model_validator(mode="after")
    def _two(self) -> Factors:
        if len(self.changes) != 2:
            raise ValueError(f"a table of factors has two changes, not {len(self.changes)}")
        return self

    def arms(self) -> dict[str, dict[str, Any]]:
        """The three arms, as a study writes them."""
        return _arms(self.changes, list(self.rungs))


def _arms(changes: Mapping[str, Sequence[str]], rungs: Any) -> dict[str, dict[str, Any]]:
    """Each of two changes as an arm, and the arm with both."""
    (one, first), (other, second) = changes.items()
    made = {one: first, other: second, f"{one}-and-{other}"[:64]: (*first, *second)}
    return {name: {"overrides": list(own), "rungs": rungs} for name, own in made.items()}


def with_arms(tree: dict[str, Any]) -> dict[str, Any]:
    """A study's tree with the arms of its factors, where it has any that are well-formed; those that stand are kept."""
    given = tree.get("factors")
    factors: dict[str, Any] = given if isinstance(given, dict) else {}
    changes = factors.get("changes")
    if not isinstance(changes, dict) or len(changes) != 2 or not all(isinstance(c, list) for c in changes.values()):
        return tree
    arms = tree.get("arms", {})
    if not isinstance(arms, dict):
        return tree
    return {**tree, "arms": {**_arms(changes, factors.get("rungs", [0])), **arms}}


def interactions(factors: Factors | None, rows: Sequence[MultiplierRow]) -> list[InteractionRow]:
    """Multiplier of both changes over the product of each one's, at every rung and axis that has all three."""
    if factors is None:
        return []
    one, other, both = factors.arms()
    cells: dict[Any, dict[str, MultiplierRow]] = {}
    for row in rows:
        if not row.all_in and row.arm in (one, other, both):
            cells.setdefault((row.axis, row.rung), {})[row.arm] = row
    return [_interaction(cell[one], cell[other], cell[both]) for cell in cells.values() if len(cell) == 3]


def _interaction(one: MultiplierRow, other: MultiplierRow, both: MultiplierRow) -> InteractionRow:
    """The runs share seeds and baseline curves, so their logarithms are subtracted seed by seed."""
    common: dict[str, Any] = {"arms": [one.arm, other.arm], "axis": one.axis, "rung": one.rung, "seeds": one.seeds}
    if one.censored or other.censored or both.censored:
        return InteractionRow(**common, sentence=f"{both.arm}: a seed lies off the ladder, so no interaction is known")
    logs = [np.log([m for m in row.per_seed if m is not None]) for row in (both, one, other)]
    error = math.hypot(one.interpolation, other.interpolation, both.interpolation)
    e = interval(logs[0] - logs[1] - logs[2], LEVEL, error)
    if e.p >= 1 - LEVEL:
        verdict = "no interaction shows"
    else:
        verdict = f"together they do {'more' if e.value > 1 else 'less'} than apart"
    sentence = (
        f"{one.arm} and {other.arm}, {one.axis}: {verdict}: {e.value:.2f}x the product of each alone (95 % interval "
        f"{e.low:.2f} to {e.high:.2f}, {one.seeds} seeds)"
    )
    return InteractionRow(**common, value=e.value, low=e.low, high=e.high, p=e.p, sentence=sentence)


def told(found: Sequence[InteractionRow]) -> Iterator[str]:
    """The interactions on FLOPs in words."""
    yield from (row.sentence for row in found if row.axis == "flops")

"""A power law that ends at an irreducible value: loss against compute (Henighan et al. 2020, arXiv 2010.14701)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from ...core.registry import Card, part
from ..formula import Columns, Parameter, Params, Values, coefficient, exponent, floor
from ..law import Law

# One exponent alone is searched for, so that the grid can be fine: 10 % a step.
_GRID = tuple(float(v) for v in np.geomspace(0.01, 2.5, 60))


@part
class PowerFloor(Law):
    """L = E + A / C^a.

    Use it where only one thing was varied: compute, the size on one data set, the members of an ensemble. With fewer
    than about six values of C its floor E is seldom identified, which ``intervals`` says. C > 0; L is in its own unit,
    above 0.

    Example:
        >>> compute = [1e15, 1e16, 1e17, 1e18, 1e19]
        >>> fit = PowerFloor().fit({"C": compute, "loss": [2 + 3e3 / c**0.2 for c in compute]})
        >>> {name: round(value, 3) for name, value in fit.params.items()}
        {'A': 3000.0, 'E': 2.0, 'a': 0.2}
    """

    card: ClassVar[Card] = Card(
        summary="Loss falling in one column towards a floor.",
        paper="Henighan et al. 2020, arXiv 2010.14701",
        equation="L = E + A / C^a",
    )
    columns: ClassVar[dict[str, str]] = {"C": "FLOPs, or whatever the law is in"}
    parameters: ClassVar[tuple[Parameter, ...]] = (
        coefficient("A", 1e-60, 1e60),
        floor("E"),
        exponent("a", starts=_GRID),
    )

    def predict(self, p: Params, x: Columns) -> Values:
        return p["E"] + p["A"] * np.exp(-p["a"] * np.log(x["C"]))

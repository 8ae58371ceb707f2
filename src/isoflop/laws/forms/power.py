"""A pure power law: a straight line in logarithms."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from ...core.registry import Card, part
from ..formula import Columns, Parameter, Params, Values, coefficient
from ..law import Law

# Steps of 0.1 over every exponent of an optimum; for each the law is solved exactly.
_GRID = tuple(float(v) for v in np.linspace(-3.0, 3.0, 61))


@part
class Power(Law):
    """y = A C^a, of either sign: optimal sizes, optimal tokens, critical batches.

    Use it for what is read off other fits or sweeps and should move in proportion to a power of something: the best
    sizes that ``optima`` gives, the best batch. C > 0 and y > 0, both in any unit; where y tends to a floor, use
    ``PowerFloor``.

    Example:
        >>> fit = Power().fit({"C": [1e18, 1e20, 1e22], "y": [2e8, 2e9, 2e10]})
        >>> round(fit.params["a"], 3), f"{float(fit.predict({'C': [1e24]})[0]):.3g}"
        (0.5, '2e+11')
    """

    card: ClassVar[Card] = Card(
        summary="A straight line in logarithms: how an optimum moves with compute, or any column renamed to C.",
        paper="Kaplan et al. 2020, arXiv 2001.08361",
        equation="y = A C^a",
        defaults="least squares in logarithms",
    )
    columns: ClassVar[dict[str, str]] = {"C": "FLOPs, or whatever the law is in"}
    target: ClassVar[str] = "y"
    defaults: ClassVar[dict[str, Any]] = {"loss": "l2"}
    parameters: ClassVar[tuple[Parameter, ...]] = (
        coefficient("A", 1e-100, 1e100),
        Parameter("a", -5.0, 5.0, _GRID, kind="exponent"),
    )

    def predict(self, p: Params, x: Columns) -> Values:
        return p["A"] * np.exp(p["a"] * np.log(x["C"]))

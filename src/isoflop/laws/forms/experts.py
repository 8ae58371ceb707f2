"""Loss of routed models from their dense size and the number of experts (Clark et al. 2022, arXiv 2202.01169)."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from ...core.registry import Card, part
from ..formula import Columns, Parameter, Params, Values, coefficient, floor
from ..law import Law

_MIDDLE = 1e8
"""Parameters at which the exponent of the experts is b."""


@part
class Experts(Law):
    """L = E + A (N / 1e8)^-a X^-(b - c ln(N / 1e8)): experts help, by an exponent that changes with size.

    Use it for mixtures of experts whose dense size and number of experts both vary; X = 1 is the dense model. Where b -
    c ln(N / 1e8) reaches 0, experts stop helping, and the law must not be used beyond that size.

    Example:
        >>> constants = {"A": 1.5, "E": 1.7, "a": 0.15, "b": 0.08, "c": 0.01}
        >>> [round(float(Experts().predict(constants, {"N": 1e8, "X": count})), 3) for count in (1, 8, 64)]
        [3.2, 2.97, 2.775]
    """

    card: ClassVar[Card] = Card(
        summary="Loss from the size of the dense model and the number of experts, whose gain changes with size.",
        paper="Clark et al. 2022, arXiv 2202.01169, eq. 7",
        equation="L = E + A (N / 1e8)^-a X^-(b - c ln(N / 1e8))",
        defaults="least squares",
        differs="a floor; no saturation of the number of experts at either end",
    )
    columns: ClassVar[dict[str, str]] = {"N": "parameters of the dense model", "X": "experts"}
    defaults: ClassVar[dict[str, Any]] = {"loss": "l2"}
    parameters: ClassVar[tuple[Parameter, ...]] = (
        coefficient("A"),
        floor("E"),
        Parameter("a", -2.0, 2.0, (0.1, 0.3), kind="exponent"),
        Parameter("b", -2.0, 2.0, (0.0, 0.1), kind="exponent"),
        Parameter("c", -1.0, 1.0, (0.0,), kind="exponent"),
    )

    def predict(self, p: Params, x: Columns) -> Values:
        n, experts = np.log(x["N"] / _MIDDLE), np.log(x["X"])
        return p["E"] + p["A"] * np.exp(-p["a"] * n - (p["b"] - p["c"] * n) * experts)

    def compute(self, x: Columns) -> Values:
        return np.asarray(x["N"], dtype=float)

"""The best score that is attained at a compute: a sigmoid quantile (prescriptive scaling)."""

from __future__ import annotations

import itertools
from typing import Any, ClassVar

import numpy as np
from pydantic import NonNegativeFloat

from ...core.registry import Card, part
from ..formula import Array, Columns, Parameter, Params, Values
from ..law import Law


@part
class Frontier(Law):
    """q_tau(z) = y0 + (1 - y0) s sigma(b (z - z0)) with z = log10 C: scores in [0, 1], the height L is (1 - y0) s.

    The objective is the softened quantile loss plus ``ridge_weight`` b^2 a row; divided by the rows it is the authors'.

    Use it to say what score the best recipes reach at a compute, out of many models that others trained: a quantile
    close to 1 is robust against those that were trained badly, a mean is not. C > 0 in FLOPs; scores lie in [0, 1].

    Example:
        >>> constants = {"y0": 0.25, "s": 0.8, "b": 1.5, "z0": 23.0}
        >>> [round(float(Frontier().predict(constants, {"C": flops})), 3) for flops in (1e21, 1e23, 1e25)]
        [0.278, 0.55, 0.822]
    """

    ridge_weight: NonNegativeFloat = 1e-4
    """Penalty on the steepness; it decides the shape where data are few (authors: 1e-3 and 1e-4)."""

    card: ClassVar[Card] = Card(
        summary="The attainable score (a high quantile) as a sigmoid in log compute.",
        paper="Zhang, Jin, Syrgkanis et al., Prescriptive Scaling",
        equation="q = y0 + L sigma(b (log10 C - z0)), y0 + L <= 1",
        defaults="tau 0.98, kappa 50, penalty 1e-4 b^2, b in [0.05, 50], z0 within the data",
        differs="the global optimum; with loss=pinball the quantile is exact instead of softened",
    )
    columns: ClassVar[dict[str, str]] = {"C": "pre-training FLOPs"}
    target: ClassVar[str] = "score"
    link: ClassVar[Any] = "identity"
    defaults: ClassVar[dict[str, Any]] = {"loss": "soft_pinball", "tau": 0.98, "kappa": 50.0, "starts": 24}
    parameters: ClassVar[tuple[Parameter, ...]] = (
        Parameter("y0", 0.0, 1.0, (0.0, 0.2, 0.4, 0.7), kind="floor"),
        Parameter("s", 0.0, 1.0, (0.2, 0.5, 1.0)),
        Parameter("b", 0.05, 50.0, tuple(np.geomspace(0.3, 30.0, 9).tolist())),
        Parameter("z0", -100.0, 100.0),
    )

    def predict(self, p: Params, x: Columns) -> Values:
        steep = p["b"] * (np.log10(x["C"]) - p["z0"])
        return p["y0"] + (1.0 - p["y0"]) * p["s"] / (1.0 + np.exp(-steep))

    def start_values(self, x: Columns, y: Array) -> Values:
        z = np.log10(x["C"])
        # The midpoint lies among the computes; with the others' starts this makes some 1500 points.
        middles = np.linspace(z.min(), z.max(), 14)
        return np.asarray(list(itertools.product(*(q.starts for q in self.parameters[:3]), middles)))

    def limits(self, x: Columns, y: Array) -> dict[str, tuple[float, float]]:
        z = np.log10(x["C"])
        return {"z0": (float(z.min()), float(z.max()))}

    def ridge(self, rows: int) -> dict[str, float]:
        return {"b": 2.0 * rows * self.ridge_weight}

"""Return of an imitating agent against training compute (Tuyls et al. 2023, arXiv 2307.09423)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from ...core.registry import Card, part
from ..formula import Array, Columns, Parameter, Params, Values, coefficient, exponent
from ..law import Law


@part
class Imitation(Law):
    """R = R_max / (1 + (C0 / C)^a): a power of compute while far from the expert, saturating at ``R_max``.

    The paper's pure power law is the limit R_max -> infinity (an unidentified R_max says so); game scores are bounded.
    Optimal sizes and data come from ``isoflop.laws.optima`` and the ``power`` law.

    Use it where the figure of merit is the return of an agent and not a loss: it must saturate at the expert's. C > 0
    in FLOPs; returns > 0 in the game's own points.

    Example:
        >>> constants = {"R_max": 10_000.0, "C0": 1e18, "a": 0.5}
        >>> [round(float(Imitation().predict(constants, {"C": flops}))) for flops in (1e16, 1e18, 1e20)]
        [909, 5000, 9091]
    """

    card: ClassVar[Card] = Card(
        summary="Mean return as a saturating power of training FLOPs.",
        paper="Tuyls et al. 2023, arXiv 2307.09423",
        equation="R = R_max / (1 + (C0 / C)^a)",
        defaults="pure power laws of loss and of return",
        differs="saturates",
    )
    columns: ClassVar[dict[str, str]] = {"C": "training FLOPs"}
    target: ClassVar[str] = "returns"
    parameters: ClassVar[tuple[Parameter, ...]] = (
        coefficient("R_max"),
        Parameter("C0", 1e-30, 1e60, log=True),
        exponent("a", 1e-3, 5.0),
    )

    def predict(self, p: Params, x: Columns) -> Values:
        return p["R_max"] / (1.0 + np.exp(p["a"] * (np.log(p["C0"]) - np.log(x["C"]))))

    def start_values(self, x: Columns, y: Array) -> Values:
        c = np.log(x["C"])
        # The turn lies among the computes, or as far above them as they reach.
        places = np.exp(np.linspace(c.min(), c.max() + np.ptp(c), 20))
        return np.asarray([(1.0, place, a) for place in places for a in np.geomspace(0.1, 3.0, 12)])

"""What a fixed data set can give: the loss of infinitely many members of infinitely large models (Kim et al. 2025)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from ...core.registry import Card, part
from ..formula import Columns, Parameter, Params, Values, coefficient, exponent, floor
from ..law import Law


@part
class InfiniteCompute(Law):
    """L = E + A / N^alpha + B / (K N^beta): K ensemble members of N parameters on one data set; E is the joint limit.

    At each size the ensemble tends to its own asymptote E + A / N^alpha at rate 1 / K; fitting both limits at once
    carries the error of the first into the second. For single models use ``power_floor`` with C = N.

    Use it where text is the limit and compute is not: E is what no ensemble of no size beats on that data. K = 1 alone
    does not identify B and beta. N, K > 0; the loss in nats a token.

    Example:
        >>> constants = {"A": 1e8, "B": 1.5, "E": 3.17, "alpha": 1.02, "beta": 0.1}
        >>> [round(float(InfiniteCompute().predict(constants, {"N": 1e9, "K": members})), 3) for members in (1, 5, 1e9)]
        [3.425, 3.274, 3.236]
    """

    card: ClassVar[Card] = Card(
        summary="The asymptote in model size and in ensemble members of training on a fixed set of tokens.",
        paper="Kim et al. 2025, arXiv 2509.14786",
        equation="L = E + A / N^alpha + B / (K N^beta)",
        defaults="A / N^1.02 + 3.43 for single regularised models; ensembles 3.34; joint limit 3.17",
        differs="both limits in one fit; the authors fit the asymptotes in K first, then those in N",
    )
    columns: ClassVar[dict[str, str]] = {"N": "parameters of a member", "K": "members"}
    parameters: ClassVar[tuple[Parameter, ...]] = (
        coefficient("A"),
        coefficient("B"),
        floor("E"),
        exponent("alpha", starts=tuple(np.geomspace(0.05, 2.5, 20).tolist())),
        Parameter("beta", -1.0, 3.0, tuple(np.linspace(-0.5, 1.5, 11).tolist()), kind="exponent"),
    )

    def predict(self, p: Params, x: Columns) -> Values:
        n = np.log(x["N"])
        return p["E"] + p["A"] * np.exp(-p["alpha"] * n) + p["B"] * np.exp(-p["beta"] * n) / x["K"]

    def compute(self, x: Columns) -> Values:
        return np.asarray(x["N"], dtype=float) * np.asarray(x["K"], dtype=float)

    def varying(self) -> tuple[str, ...]:
        return ("N", "K")

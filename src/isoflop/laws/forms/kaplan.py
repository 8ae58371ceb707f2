"""Loss from size and tokens in Kaplan's nested form (Kaplan et al. 2020, arXiv 2001.08361, eq. 1.5, with a floor)."""

from __future__ import annotations

import itertools
from typing import ClassVar

import numpy as np

from ...core.registry import Card, part
from ...ledger.conventions import six_nd
from ..formula import Array, Columns, Parameter, Params, Values, exponent, floor
from ..law import Law


@part
class Kaplan(Law):
    """L = E + ((A / N)^(alpha / beta) + B / D)^beta.

    Use it where one shortage should hide the other: with few tokens, a larger model gains less than in ``Chinchilla``'s
    sum. ``LossToLoss`` is defined between losses of this form. ``compare`` tells which of the two a table speaks for.

    Example:
        >>> constants = {"A": 1e9, "B": 2e9, "E": 1.7, "alpha": 0.3, "beta": 0.25}
        >>> round(float(Kaplan().predict(constants, {"N": 1e9, "D": 2e10})), 3)
        2.724
    """

    card: ClassVar[Card] = Card(
        summary="Loss from parameters and tokens, one shortage inside the other.",
        paper="Kaplan et al. 2020, arXiv 2001.08361; with a floor as in Brandfonbrener et al. 2024, arXiv 2411.12925",
        equation="L = E + ((A / N)^(alpha / beta) + B / D)^beta",
    )
    columns: ClassVar[dict[str, str]] = {"N": "parameters", "D": "training tokens"}
    parameters: ClassVar[tuple[Parameter, ...]] = (
        Parameter("A", 1e-30, 1e60, log=True),
        Parameter("B", 1e-30, 1e60, log=True),
        floor("E"),
        exponent("alpha"),
        exponent("beta"),
    )

    def predict(self, p: Params, x: Columns) -> Values:
        by_size = np.exp((np.log(p["A"]) - np.log(x["N"])) * (p["alpha"] / p["beta"]))
        return p["E"] + np.exp(p["beta"] * np.log(by_size + p["B"] / x["D"]))

    def start_values(self, x: Columns, y: Array) -> Values:
        """Exponents on a grid; A and B such that size and tokens share the reducible loss at the middle of the data."""
        n, d = float(np.exp(np.mean(np.log(x["N"])))), float(np.exp(np.mean(np.log(x["D"]))))
        # No constant of this form is linear: exponents 32 % apart, and three places for the floor and for the shares.
        grid = np.geomspace(0.08, 1.0, 10)
        rows = []
        for alpha, beta, reducible, share in itertools.product(grid, grid, (0.2, 0.5, 0.8), (0.2, 0.5, 0.8)):
            inner = (reducible * float(np.median(y))) ** (1.0 / beta)
            rows.append((n * (share * inner) ** (beta / alpha), (1.0 - share) * inner * d, 1.0, alpha, beta))
        return np.asarray(rows)

    def optimum(self, p: dict[str, float], compute: Array) -> tuple[Array, Array]:
        """(N, D) that minimise the loss at compute C = 6 N D, each of the shape of ``compute`` (FLOPs)."""
        ratio = p["alpha"] / p["beta"]
        g = (ratio * p["A"] ** ratio / p["B"]) ** (1.0 / (1.0 + ratio))
        budget = np.asarray(compute, dtype=float) / six_nd(1, 1)
        n = g * budget ** (1.0 / (1.0 + ratio))
        return n, budget / n

"""Loss from size and tokens, the two effects added (Hoffmann et al. 2022, arXiv 2203.15556, approach 3)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from ...core.registry import Card, part
from ...ledger.conventions import six_nd
from ..formula import Array, Columns, Parameter, Params, Values, coefficient, exponent, floor
from ..law import Law

# Published exponents lie between 0.2 and 0.5; steps of 16 % leave Newton's method a start in the right valley.
_GRID = tuple(float(v) for v in np.geomspace(0.04, 1.3, 24))


@part
class Chinchilla(Law):
    """L = E + A / N^alpha + B / D^beta.

    The law to begin with: five constants, fitted to runs that vary both size and tokens, answer how large a model and
    how many tokens a budget should buy. It says nothing of repeated tokens (``DataConstrained``), of badly set rates
    (``Mist``) or of sizes far outside the table. N, D > 0; the loss is in nats a token, or in any unit of its own.

    Example:
        >>> law, published = Chinchilla(), {"A": 482.01, "B": 2085.43, "E": 1.8172, "alpha": 0.3478, "beta": 0.3658}
        >>> round(float(law.predict(published, {"N": 70e9, "D": 1.4e12})), 3)
        1.974
    """

    card: ClassVar[Card] = Card(
        summary="Loss from parameters and tokens, the two shortages added to an irreducible loss.",
        paper="Hoffmann et al. 2022, arXiv 2203.15556; re-fit by Besiroglu et al. 2024, arXiv 2404.10102",
        equation="L = E + A / N^alpha + B / D^beta",
        defaults="sum of log-Huber losses with delta 1e-3",
        differs="the objective is summed, not averaged; the linear constants are solved for on a grid of exponents",
    )
    columns: ClassVar[dict[str, str]] = {"N": "parameters", "D": "training tokens"}
    parameters: ClassVar[tuple[Parameter, ...]] = (
        coefficient("A"),
        coefficient("B"),
        floor("E"),
        exponent("alpha", starts=_GRID),
        exponent("beta", starts=_GRID),
    )

    def predict(self, p: Params, x: Columns) -> Values:
        return p["E"] + p["A"] * np.exp(-p["alpha"] * np.log(x["N"])) + p["B"] * np.exp(-p["beta"] * np.log(x["D"]))

    def gradient(self, p: Params, x: Columns) -> tuple[Array, dict[str, Array]]:
        n, d = np.log(x["N"]), np.log(x["D"])
        by_a, by_b = np.exp(-p["alpha"] * n), np.exp(-p["beta"] * d)
        first, second = p["A"] * by_a, p["B"] * by_b
        y = p["E"] + first + second
        return y, {"A": by_a, "B": by_b, "E": np.ones_like(p["E"]), "alpha": -first * n, "beta": -second * d}

    def optimum(self, p: dict[str, float], compute: Array) -> tuple[Array, Array]:
        """(N, D) that minimise the loss at compute C = 6 N D, each of the shape of ``compute`` (FLOPs)."""
        ratio = p["alpha"] * p["A"] / (p["beta"] * p["B"])
        g = ratio ** (1.0 / (p["alpha"] + p["beta"]))
        share = p["beta"] / (p["alpha"] + p["beta"])
        budget = np.asarray(compute, dtype=float) / six_nd(1, 1)
        return g * budget**share, budget ** (1.0 - share) / g

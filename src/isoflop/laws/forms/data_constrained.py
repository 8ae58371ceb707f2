"""Loss when tokens repeat (Muennighoff et al. 2023, arXiv 2305.16264, eq. 5-7)."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from ...core.registry import Card, part
from ..formula import Array, Columns, Parameter, Params, Values, coefficient, exponent, floor
from ..law import Law

C4 = {"A": float(np.exp(6.255414)), "B": float(np.exp(7.3049974)), "E": float(np.exp(0.6254804)), "alpha": 0.3526596}
"""The authors' first stage: 54 isoFLOP points on C4, alpha = beta."""


@part
class DataConstrained(Law):
    """L = E + A / N'^alpha + B / D'^alpha, where repeated tokens, and parameters beyond what U tokens feed, decay.

    D' = U + U R_D (1 - e^(-r / R_D)) with r = D / U - 1 repetitions; N' likewise from U_N = min(N, N_opt(U)).

    Use it where text runs out: it tells how often to repeat U tokens that differ, and whether a larger model would
    rather. With the authors' constants for C4 two constants are left to fit; another corpus needs ``base="fit"`` and
    runs without repetition. N, D, U > 0; one epoch is D = U.

    Example:
        >>> law, scales = DataConstrained(), {"R_D": 15.4, "R_N": 5.3}
        >>> def loss(epochs):
        ...     return float(law.predict({**law.held, **scales}, {"N": 1e9, "D": 1e10 * epochs, "U": 1e10}))
        >>> [round(loss(epochs), 3) for epochs in (1, 4, 40, 400)]
        [2.666, 2.502, 2.393, 2.388]
    """

    base: Literal["c4", "fit"] = "c4"
    """Where the constants without repetition come from: the authors' (held), or this table (fitted with the rest)."""

    card: ClassVar[Card] = Card(
        summary="How much a repeated token is worth.",
        paper="Muennighoff et al. 2023, arXiv 2305.16264",
        equation="L = E + A / N'^alpha + B / D'^alpha, D' = U + U R_D (1 - exp(-(D / U - 1) / R_D))",
        defaults="two stages: A, B, E, alpha from runs without repetition, then R_D and R_N alone",
    )
    columns: ClassVar[dict[str, str]] = {"N": "parameters", "D": "training tokens", "U": "unique tokens"}
    parameters: ClassVar[tuple[Parameter, ...]] = (
        coefficient("A"),
        coefficient("B"),
        floor("E"),
        exponent("alpha", starts=(0.2, 0.3, 0.4, 0.5)),
        Parameter("R_D", 1e-2, 1e5, tuple(np.geomspace(0.3, 300.0, 20).tolist()), log=True),
        Parameter("R_N", 1e-2, 1e5, tuple(np.geomspace(0.3, 300.0, 20).tolist()), log=True),
    )

    @property
    def held(self) -> dict[str, float]:
        return dict(C4) if self.base == "c4" else {}

    def predict(self, p: Params, x: Columns) -> Values:
        unique = np.minimum(x["D"], x["U"])
        data = unique * (1.0 + _saturating(x["D"] / unique - 1.0, p["R_D"]))
        feedable = np.exp(np.log(p["A"] / p["B"]) / p["alpha"] + np.log(unique))  # N_opt of U tokens, alpha = beta
        used = np.where(np.real(feedable) < x["N"], feedable, x["N"])
        size = used * (1.0 + _saturating(x["N"] / used - 1.0, p["R_N"]))
        reducible = p["A"] * np.exp(-p["alpha"] * np.log(size)) + p["B"] * np.exp(-p["alpha"] * np.log(data))
        return p["E"] + reducible

    def basis(self, theta: Array, x: Columns) -> tuple[Array, Array]:
        """A / B also says how many parameters U tokens feed; a start may neglect that, so that A and B are linear."""
        p = self.named(theta)
        ones = np.ones((len(theta), len(x["N"])))
        with np.errstate(all="ignore"):
            unique = np.minimum(x["D"], x["U"])
            data = unique * (1.0 + _saturating(x["D"] / unique - 1.0, p["R_D"]))
            size = x["N"] * ones
            first, second = size ** -p["alpha"], data ** -p["alpha"]
        return np.zeros_like(ones), np.stack([first, second, ones], axis=1)


def _saturating(repeats: Array, scale: Array) -> Values:
    return scale * (1.0 - np.exp(-repeats / scale))

"""What a run costs: FLOPs of training from size and tokens, as the table counts them, and of answering requests."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...core.errors import UsageError
from ...ledger.conventions import six_nd
from ..fit import Solved
from ..formula import Array

_ALIKE = 0.01  # relative: a table whose C is 6 N D up to this has no count of its own


@dataclass(frozen=True)
class TrainingCost:
    """Training FLOPs = factor N^power D.

    Attributes:
        factor: 6 in the convention 6 N D.
        power: 1 in that convention; what attention and embeddings make of it where a table counts its own FLOPs.
        said: in words, for the assumption of an answer.

    Example:
        >>> float(TrainingCost().flops(1e9, 2e10))
        1.2e+20
    """

    factor: float = float(six_nd(1, 1))
    power: float = 1.0
    said: str = "training costs 6 N D FLOPs"

    def flops(self, n: Array | float, d: Array | float) -> Array:
        """Training FLOPs of parameters and tokens of any shape."""
        return np.asarray(self.factor * np.asarray(n, dtype=float) ** self.power * np.asarray(d, dtype=float))

    def tokens(self, n: Array | float, compute: Array | float) -> Array:
        """Tokens on which ``n`` parameters can be trained for ``compute`` FLOPs."""
        return np.asarray(np.asarray(compute, dtype=float) / self.flops(n, 1.0))

    def log_tokens(self, z: Array, compute: float) -> Array:
        """The same in logarithms, ln D from ln N of any shape, infinite ones too."""
        return np.asarray(np.log(compute / self.factor) - self.power * z)

    def size(self, d: Array | float, compute: Array | float) -> Array:
        """Parameters that can be trained on ``d`` tokens for ``compute`` FLOPs."""
        ratio = np.asarray(compute, dtype=float) / (self.factor * np.asarray(d, dtype=float))
        return np.asarray(ratio ** (1.0 / self.power))


def cost_of(fit: Solved) -> TrainingCost:
    """How the fit's table counts FLOPs: 6 N D, or where its C differs, a power of N through its C / D.

    Args:
        fit: a fit whose law has N and D; its table may have a column C of FLOPs of its own.

    Example, with ``sweep`` a table of N, D and loss:
        >>> from isoflop.laws import Chinchilla
        >>> cost_of(Chinchilla().fit(sweep)).factor
        6.0
    """
    x = fit.problem.x
    if not {"C", "N", "D"} <= set(x):
        return TrainingCost()
    ratio = np.log(x["C"] / six_nd(x["N"], x["D"]))
    if np.max(np.abs(ratio)) <= _ALIKE or np.ptp(np.log(x["N"])) == 0:
        return TrainingCost()
    n = np.log(x["N"])
    slope, offset = np.polyfit(n - n.mean(), np.log(x["C"] / x["D"]), 1)
    off = np.max(np.abs(np.log(x["C"] / x["D"]) - slope * (n - n.mean()) - offset))
    factor = float(np.exp(offset - slope * n.mean()))
    said = f"training costs {factor:.3g} N^{slope:.3f} D FLOPs, the table's C up to {100 * np.expm1(off):.2g} %"
    return TrainingCost(factor, float(slope), said)


def answering(n: Array, flops_per_token: float | None = None, at: float | None = None) -> Array:
    """FLOPs of one token of a request: 2 N, or ``flops_per_token`` of a model with ``at`` parameters, scaled to N.

    Raises:
        UsageError: a count that is not positive, or without the size that it belongs to.

    Example:
        >>> float(answering(1e9)), float(answering(5e8, flops_per_token=3e9, at=1e9))
        (2000000000.0, 1500000000.0)
    """
    sizes = np.asarray(n, dtype=float)
    if flops_per_token is None:
        return 2.0 * sizes
    if at is None or not (flops_per_token > 0 and at > 0):
        raise UsageError(
            "FLOPs of a token belong to a size", where="flops_per_token", fix="give both, positive: FLOPs and params"
        )
    return np.asarray(flops_per_token * sizes / at)

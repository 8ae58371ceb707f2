"""Downstream error from loss (Gadre et al. 2024, arXiv 2403.08540, eq. 5)."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from ...core.registry import Card, part
from ..formula import Array, Columns, Parameter, Params, Values, coefficient
from ..law import Law

# One constant alone is searched for, so that the grid can be fine: 11 % a step.
_GRID = tuple(float(v) for v in np.geomspace(0.02, 8.0, 60))


@part
class OvertrainingError(Law):
    """Err = eps - k e^(-gamma L): average top-1 error saturates at eps as the loss grows.

    Use it to forecast a mean over many tasks from the loss; of a single task the error is too noisy. The loss is in
    nats a token, the error a share in [0, 1], near ``eps`` for a model that guesses.

    Example:
        >>> constants = {"eps": 0.75, "k": 2.5, "gamma": 1.0}
        >>> [round(float(OvertrainingError().predict(constants, {"loss": loss})), 3) for loss in (4.0, 3.0, 2.5)]
        [0.704, 0.626, 0.545]
    """

    card: ClassVar[Card] = Card(
        summary="Average downstream error as a saturating exponential of the loss.",
        paper="Gadre et al. 2024, arXiv 2403.08540",
        equation="Err = eps - k exp(-gamma L)",
        defaults="unweighted least squares; fitted on true losses, used on predicted ones",
    )
    columns: ClassVar[dict[str, str]] = {"loss": "loss, nats a token"}
    target: ClassVar[str] = "error"
    link: ClassVar[Any] = "identity"
    defaults: ClassVar[dict[str, Any]] = {"loss": "l2"}
    parameters: ClassVar[tuple[Parameter, ...]] = (
        coefficient("eps", 1e-6, 1e3),
        coefficient("k", 1e-12, 1e12),
        Parameter("gamma", 1e-3, 50.0, _GRID, log=True),
    )

    def predict(self, p: Params, x: Columns) -> Values:
        return p["eps"] - p["k"] * np.exp(-p["gamma"] * x["loss"])

    def compute(self, x: Columns) -> Array:
        """C where the table has it; else a stand-in: compute at which the loss would fall with exponent 0.05."""
        return super().compute(x) if "C" in x else np.asarray(x["loss"], dtype=float) ** -20.0

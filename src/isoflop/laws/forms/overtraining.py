"""Loss of models trained on more tokens than is compute-optimal (Gadre et al. 2024, arXiv 2403.08540, eq. 4)."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from ...core.registry import Card, part
from ...ledger.conventions import six_nd
from ..formula import Columns, Parameter, Params, Values, coefficient, exponent, floor
from ..law import Law

# One exponent alone is searched for, so that the grid can be fine: 8 % a step.
_GRID = tuple(float(v) for v in np.geomspace(0.01, 1.2, 60))


@part
class Overtraining(Law):
    """L = E + (a M^eta + b M^-eta) C^-eta with M = D / N tokens a parameter and C = 6 N D.

    Use it for models that are trained far beyond 20 tokens a parameter because they will be used much: the exponent of
    compute is shared by all ratios M, only the prefactor moves. ``OvertrainingError`` carries its loss on to tasks.

    Example:
        >>> constants = {"a": 30.0, "b": 300.0, "E": 1.8, "eta": 0.12}
        >>> tokens = 1e9 * np.asarray([20, 160, 640])
        >>> Overtraining().predict(constants, {"N": 1e9, "D": tokens}).round(3).tolist()
        [2.783, 2.463, 2.322]
    """

    card: ClassVar[Card] = Card(
        summary="Loss as a power law in compute whose prefactor depends on tokens per parameter.",
        paper="Gadre et al. 2024, arXiv 2403.08540",
        equation="L = E + (a M^eta + b M^-eta) C^-eta, M = D / N, C = 6 N D",
        defaults="unweighted least squares on the loss itself; five small runs",
    )
    columns: ClassVar[dict[str, str]] = {"N": "parameters", "D": "training tokens"}
    link: ClassVar[Any] = "identity"
    defaults: ClassVar[dict[str, Any]] = {"loss": "l2"}
    parameters: ClassVar[tuple[Parameter, ...]] = (
        coefficient("a"),
        coefficient("b"),
        floor("E"),
        exponent("eta", 1e-3, 2.0, _GRID),
    )

    def predict(self, p: Params, x: Columns) -> Values:
        """M^eta C^-eta = 6^-eta N^(-2 eta), and M^-eta C^-eta = 6^-eta D^(-2 eta)."""
        log6 = np.log(six_nd(1, 1))
        by_size = np.exp(-p["eta"] * (log6 + 2.0 * np.log(x["N"])))
        by_data = np.exp(-p["eta"] * (log6 + 2.0 * np.log(x["D"])))
        return p["E"] + p["a"] * by_size + p["b"] * by_data

"""When to switch to quantisation-aware training (compute-optimal QAT)."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from ...core.registry import Card, part
from ..formula import Columns, Parameter, Params, Values
from ..law import Law


@part
class QatFraction(Law):
    """f* = exp(-a / ln S): the best share of QAT tokens, S = D / (N bits / 8) tokens a parameter byte, S > 1."""

    card: ClassVar[Card] = Card(
        summary="The share of training to spend in quantisation-aware training.",
        paper="Dremov et al. 2025, arXiv 2509.22935",
        equation="f* = exp(-a / ln S), S = D / (N bits / 8)",
        defaults="a = 6.7297 (mean absolute error 0.091)",
    )
    columns: ClassVar[dict[str, str]] = {"N": "parameters", "D": "training tokens", "bits": "bits a weight"}
    target: ClassVar[str] = "fraction"
    link: ClassVar[Any] = "identity"
    defaults: ClassVar[dict[str, Any]] = {"loss": "l2"}
    parameters: ClassVar[tuple[Parameter, ...]] = (
        Parameter("a", 1e-3, 1e3, tuple(np.geomspace(0.1, 100.0, 30).tolist()), log=True),
    )

    def predict(self, p: Params, x: Columns) -> Values:
        return np.exp(-p["a"] / np.log(tokens_per_byte(x)))

    def varying(self) -> tuple[str, ...]:
        return ()


def tokens_per_byte(x: Columns) -> Values:
    """S = D / (N bits / 8)."""
    return np.asarray(x["D"], dtype=float) / (
        np.asarray(x["N"], dtype=float) * np.asarray(x["bits"], dtype=float) / 8.0
    )

"""When to switch to quantisation-aware training (compute-optimal QAT)."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from ...core.registry import Card, part
from ..formula import Columns, Parameter, Params, Values
from ..law import Law


@part
class QatFraction(Law):
    """f* = exp(-a / ln S): the best share of QAT tokens, S = D / (N bits / 8) tokens a parameter byte, S > 1.

    Use it to divide one budget of tokens between training in full precision and training with quantised weights: the
    more tokens a byte of weights gets, the larger the quantised share should be. Only for S > 1.

    Example:
        >>> tokens = np.asarray([1e10, 1e11, 1e12])
        >>> QatFraction().predict({"a": 6.0}, {"N": 1e9, "D": tokens, "bits": 4}).round(3).tolist()
        [0.135, 0.322, 0.454]
    """

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


PUBLISHED = {"a": 6.7297}
"""Fitted by the authors to models of 86 million to 2.2 billion parameters; mean absolute error .091."""


def published_share(size: float, tokens: float, bits: float) -> float | None:
    """Best share of quantisation-aware tokens by the published constant; None where S <= 1, of which the law is silent.

    Args:
        size: N, parameters.
        tokens: D, of both phases.
        bits: a weight.

    Example:
        >>> round(published_share(1e9, 2e10, bits=4), 3), published_share(1e9, 1e8, bits=4)
        (0.161, None)
    """
    x = {name: np.asarray(value, dtype=float) for name, value in (("N", size), ("D", tokens), ("bits", bits))}
    constants = {name: np.asarray(value) for name, value in PUBLISHED.items()}
    return float(QatFraction().predict(constants, x)) if float(tokens_per_byte(x)) > 1 else None


def tokens_per_byte(x: Columns) -> Values:
    """S = D / (N bits / 8).

    Args:
        x: columns N (parameters), D (tokens) and bits (a weight), numbers or arrays (n,).

    Example:
        >>> float(tokens_per_byte({"N": 1e9, "D": 1e10, "bits": 4}))
        20.0
    """
    return np.asarray(x["D"], dtype=float) / (
        np.asarray(x["N"], dtype=float) * np.asarray(x["bits"], dtype=float) / 8.0
    )

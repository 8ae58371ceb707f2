"""A law carried to new data from k runs there (loss-to-loss)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ...core.errors import DataError, UsageError
from ..fit import Solved, fit_law
from ..forms.loss_to_loss import LossToLoss
from ..formula import Array, law_name
from ..tables import as_table
from .draws import Basis, basis_of, draw

_FURTHEST = 700.0  # a logarithm whose number is still one
LEAST = 4
"""Fewest runs on the new data: one more than the constants."""


def transferred(source: Solved, runs: Mapping[str, Any], level: float = 0.9) -> Basis:
    """The Kaplan law of the source, with the constants that k runs on other data give it.

    L1 = K (L0 - E0)^kappa + E1 is fitted to the runs, with L0 the source law's loss of the same N and D; its constants
    make those of the new law: alpha and beta times kappa, A and B by K, the floor E1.

    Args:
        source: a fit of ``kaplan`` on the source data.
        runs: columns N, D and loss on the new data.
        level: level of the intervals of plans made from it, a share.

    Raises:
        UsageError: another law.
        DataError: fewer than four runs, for K, kappa and E1.

    Example, with ``fitted(law)`` a fit:
        >>> source = fitted("kaplan")
        >>> n, d = (x.ravel() for x in np.meshgrid([1e8, 3e8, 1e9], [5e9, 5e10]))
        >>> loss = 0.9 * (source.predict({"N": n, "D": d}) - 1.2) ** 1.1 + 0.8
        >>> transferred(source, {"N": n, "D": d, "loss": loss}).fit.rows
        64
    """
    check_carried(source)
    table = as_table(runs)
    if "loss" in table:
        table = table.where(np.isfinite(table.numbers("loss")))  # candidates that are not made yet
    if table.rows < LEAST:
        raise DataError(
            f"{table.rows} runs for three constants (K, kappa, E1)",
            where="plan",
            fix="make at least four on the new data",
        )
    names = source.law.names
    e0 = source.params["E"]
    pairs = table.with_columns(loss0=source.predict(table)).select(["loss0", "loss"])
    between = fit_law(LossToLoss(E0=e0, floors="joint"), pairs)
    theirs, ours = draw(between), draw(source)
    count = min(len(theirs), len(ours))
    moved = _moved(names, source.law.to_natural(ours[:count]), between, theirs[:count])
    theta = source.law.to_fitted(moved)
    return replace(basis_of(source, level), fit=replace(source, theta=theta[0]), theta=theta, judged_by=source)


def check_carried(source: Solved) -> None:
    """UsageError if the source law is another than Kaplan's."""
    if law_name(source.law) != "kaplan":
        raise UsageError(f"{law_name(source.law)} cannot be carried over", where="plan", fix="fit kaplan to the source")


def _moved(names: tuple[str, ...], source: Array, between: Solved, theta: Array) -> Array:
    """The new law's constants (k, 5) in the source law's order, natural units; the draws of both are independent."""
    natural = between.law.to_natural(theta)
    # The draws of one are put in another order, or the two would move together.
    natural = np.concatenate([natural[:1], natural[1:][::-1]])
    at = {name: natural[:, j] for j, name in enumerate(between.law.names)}
    was = {name: source[:, j] for j, name in enumerate(names)}

    def carried(coefficient: str, exponent: str) -> Array:
        """A K^(1 / (kappa alpha)); of few runs some draws are beyond all bounds, to which they are clipped later."""
        logs = np.log(was[coefficient]) + np.log(at["K"]) / (at["kappa"] * was[exponent])
        found: Array = np.exp(np.clip(logs, -_FURTHEST, _FURTHEST))
        return found

    now = {
        "A": carried("A", "alpha"),
        "B": carried("B", "beta"),
        "E": at["E1"],
        "alpha": at["kappa"] * was["alpha"],
        "beta": at["kappa"] * was["beta"],
    }
    return np.column_stack([now[name] for name in names])

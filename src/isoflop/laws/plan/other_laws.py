"""The same plan under every law that fits the table's columns and extrapolates well: how far the form decides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from ...core.errors import IsoflopError
from ...core.table import Table
from ..comparison import Comparison, compare
from ..fit import Solved, fit_law
from ..formula import Formula, law_name
from ..verb import fitting_laws
from .answer import Answer, Figure
from .draws import Basis, basis_of

WELL = 1.5
"""Extrapolation error, over the best law's, up to which a law is asked too; so is one that a test cannot tell apart."""
_SAME = 0.05  # p-value of that test


def other_laws(basis: Basis, ask: Callable[[Basis], Answer], shown: tuple[str, ...]) -> Answer | None:
    """One question put to all laws of size and tokens that extrapolate well on the fit's own rows.

    A number that other laws, which predict as well, do not share is the law's and not the data's.

    Args:
        basis: the fit whose rows are used, with its draws.
        ask: the question.
        shown: names of the figures that are compared.

    Returns:
        Per figure one line a law and one that holds all of them; None where no other law can be asked.

    Example, with ``basis(law)`` the draws of a fit:
        >>> from isoflop.laws.plan.best import best
        >>> other_laws(basis("overtraining_error"), lambda other: best(other, 1e21), ("N",)) is None
        True
    """
    fit = basis.fit
    laws = [law for law in fitting_laws(Table(fit.table)) if set(law.columns) == {"N", "D"}]
    if set(fit.law.columns) != {"N", "D"} or len(laws) < 2:
        return None
    try:
        comparison = compare(fit.table, laws, level=basis.level)
    except IsoflopError:  # too few rows to forecast any from the others
        return None
    asked, warnings = _asked(basis, laws, comparison, ask)
    if len(asked) < 2:
        return None
    figures = [figure for name in shown for figure in _lines(name, asked, comparison)]
    first = next(iter(asked.values()))
    return Answer(
        "the same under every law that extrapolates well",
        tuple(figures),
        f"the truth is one of these forms; each was forecast from {comparison.scores[0].cuts} cuts of the rows",
        first.beyond,
        basis.level,
        None,
        tuple(warnings),
    )


def _asked(
    basis: Basis, laws: Sequence[Formula], comparison: Comparison, ask: Callable[[Basis], Answer]
) -> tuple[dict[str, Answer], list[str]]:
    """The answers by law, best extrapolation first, and why the other laws have none."""
    by_name = {law_name(law): law for law in laws}
    least, answers, left_out = comparison.scores[0].error, {}, []
    for score in comparison.scores:
        if score.failed:
            left_out.append(f"{score.law} is left out: {score.failed}")
            continue
        told_apart = score.p is not None and score.p < _SAME
        if score.error > WELL * least and told_apart:
            left_out.append(
                f"{score.law} is left out: it errs {100 * score.error:.3g} % ahead, {100 * least:.3g} % is best"
            )
            continue
        try:
            same = score.law == law_name(basis.fit.law)
            answers[score.law] = ask(basis if same else basis_of(_refitted(basis.fit, by_name[score.law]), basis.level))
        except IsoflopError as error:
            left_out.append(f"{score.law} gives no plan: {error.what}")
    return answers, left_out


def _refitted(fit: Solved, law: Formula) -> Solved:
    """Another law fitted to the same rows at its own defaults, with the same weights and clusters."""
    given = {"weights": fit.settings.weights, "clusters": fit.settings.clusters}
    return fit_law(law, fit.table, None, **{name: value for name, value in given.items() if value})


def _lines(name: str, asked: dict[str, Answer], comparison: Comparison) -> list[Figure]:
    """One figure under each law, then the span of all."""
    errors = {score.law: score.error for score in comparison.scores}
    lines = [
        replace(answer[name], name=f"{name}: {law}", note=f"errs {100 * errors[law]:.2g} % ahead")
        for law, answer in asked.items()
    ]
    low, high = float(np.min([f.low for f in lines])), float(np.max([f.high for f in lines]))
    return [*lines, Figure(f"{name}: all of them", lines[0].value, low, high, lines[0].unit, "the span of intervals")]

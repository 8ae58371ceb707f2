"""The loss of one run: at its size and tokens, or at its compute."""

from __future__ import annotations

from ...core.errors import UsageError
from ..extrapolate import predict_interval
from ..formula import law_name
from .answer import Answer, Figure, digits
from .best import loss_at
from .draws import Basis
from .limits import check_positive, looked_at


def point(basis: Basis, size: float, tokens: float, unique: float | None = None) -> Answer:
    """Loss at (N, D), and what that run costs.

    Args:
        basis: a fit of a law of size and tokens, with its draws.
        size: N, parameters.
        tokens: D.
        unique: of the tokens, those that differ; None: all. Only laws with a column U can say what repeats cost.

    Raises:
        UsageError: numbers that are not positive, or more than 100 times outside the rows.

    Example, with ``basis(law)`` the draws of a fit:
        >>> made = point(basis("chinchilla"), 1e9, 2e10)
        >>> round(made["loss"].value, 2)
        2.53
    """
    fit, level, cost = basis.fit, basis.level, basis.cost
    check_positive(params=size, tokens=tokens, unique=unique)
    if unique is not None and unique < tokens and "U" not in fit.law.columns:
        raise UsageError(
            f"{law_name(fit.law)} does not know what repeated tokens are worth",
            where="unique",
            fix="fit data_constrained",
        )
    compute = float(cost.flops(size, tokens))
    warnings, end = looked_at(fit, cost, {"C": compute, "N": size, "D": tokens, "D/N": tokens / size})
    figures = (
        loss_at(basis, size, tokens, U=tokens if unique is None else min(unique, tokens)),
        Figure("C", compute, compute, compute, "FLOPs"),
        Figure("D/N", tokens / size, tokens / size, tokens / size, "tokens a parameter"),
    )
    question = f"loss of N = {digits(size)} parameters on D = {digits(tokens)} tokens"
    said = f"{law_name(fit.law)} holds there; {cost.said}; the run is tuned as the table's are"
    return Answer(question, figures, said, end, level, None, warnings)


def along(basis: Basis, compute: float) -> Answer:
    """The target of a law of C alone."""
    fit, level, cost = basis.fit, basis.level, basis.cost
    check_positive(compute=compute)
    warnings, end = looked_at(fit, cost, {"C": compute})
    made = predict_interval(fit, {"C": [compute]}, level)
    value, low, high = float(made.value[0]), float(made.low[0]), float(made.high[0])
    said = f"{law_name(fit.law)} holds there, and a run of that compute is made as the table's are"
    figures = (Figure(fit.law.target, value, low, high),)
    return Answer(f"{fit.law.target} at C = {digits(compute)} FLOPs", figures, said, end, level, None, warnings)

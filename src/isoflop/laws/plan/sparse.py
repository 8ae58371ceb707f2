"""Sparse pre-training: the average number of parameters for a compute, and the schedule that has it."""

from __future__ import annotations

import numpy as np

from ...core.errors import UsageError
from ..formula import law_name
from .answer import Answer, digits, figure, region
from .best import best_draws, loss_at
from .draws import Basis
from .limits import check_positive, looked_at

_BEGIN, _END = 0.25, 0.75
"""Shares of compute between which the authors prune."""


def sparse(basis: Basis, compute: float, size: float, begin: float = _BEGIN, end: float = _END) -> Answer:
    """From which size to prune to ``size`` so that the average is the best one at C.

    The count is held, then falls linearly, then is held: the mean is start (begin + end) / 2 + final (1 - (begin +
    end) / 2), shares counted in tokens.

    Args:
        basis: a fit of ``average_n``, with its draws.
        compute: C = 6 Nbar D, FLOPs.
        size: parameters that are left at the end.
        begin: share of training at which pruning begins.
        end: share at which it ends.

    Raises:
        UsageError: another law; shares out of order; a final size that is larger than the best average; numbers that
            are not positive, or too far outside the rows.
        DataError: the law has no best size there.

    Example, with ``basis(law)`` the draws of a fit:
        >>> made = sparse(basis("average_n"), 1e21, 8e8)
        >>> made["N at the start"].value > made["average N"].value > 8e8
        True
    """
    fit = basis.fit
    check_positive(compute=compute, params=size)
    if law_name(fit.law) != "average_n":
        raise UsageError(f"{law_name(fit.law)} knows no average size", where="plan", fix="fit average_n")
    if not 0 <= begin <= end <= 1 or end == 0:
        raise UsageError(f"pruning from {begin:g} to {end:g}", where="plan", fix="give shares of training in order")
    looked_at(fit, basis.cost, {"C": compute})
    z = best_draws(basis, compute)
    d = basis.cost.log_tokens(z, compute)
    share = 0.5 * (begin + end)
    start = (np.exp(z) - (1.0 - share) * size) / share
    if start[0] < size:
        raise UsageError(
            f"the best average at C = {digits(compute)} is {digits(np.exp(z[0]))} parameters, fewer than the final "
            f"{digits(size)}: a sparse run of that size costs more",
            where="params",
            fix="ask for a smaller final size or more compute",
        )
    mean, tokens = float(np.exp(z[0])), float(np.exp(d[0]))
    warnings, beyond = looked_at(fit, basis.cost, {"C": compute, "N": mean, "D": tokens, "D/N": tokens / mean})
    figures = (
        figure("average N", z, basis.level, "parameters"),
        figure("N at the start", start, basis.level, "parameters", log=False),
        figure("sparsity at the end", 1.0 - size / np.maximum(start, 1.0), basis.level, log=False),
        figure("D", d, basis.level, "tokens"),
        loss_at(basis, mean, tokens),
    )
    when = f"from {100 * begin:g} to {100 * end:g} % of training"
    question = f"prune to N = {digits(size)} {when}, C = {digits(compute)} FLOPs"
    said = f"only the average counts, however sparse the end; {basis.cost.said} of the average"
    joint = region(("average N", "D"), (z, d), basis.level)
    return Answer(question, figures, said, beyond, basis.level, joint, (*warnings, *basis.vague))

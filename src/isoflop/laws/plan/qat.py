"""When to switch to quantisation-aware training."""

from __future__ import annotations

import numpy as np

from ...core.errors import UsageError
from ..formula import law_name
from .answer import Answer, digits, figure
from .batch import inside, predicted
from .draws import Basis
from .limits import check_positive
from .minimum import vertex

# In steps of half a percent; a parabola places the minimum between them.
_SHARES = np.linspace(0.005, 0.995, 199)


def qat_start(basis: Basis, size: float, tokens: float, bits: float) -> Answer:
    """Best share of quantisation-aware tokens, and the token at which that phase begins.

    Args:
        basis: a fit of ``qat_fraction`` or of ``qat_loss``, with its draws.
        size: N, parameters.
        tokens: D, of both phases.
        bits: a weight.

    Raises:
        UsageError: another law; numbers that are not positive, or too far outside the rows.

    Example, with ``basis(law)`` the draws of a fit:
        >>> made = qat_start(basis("qat_fraction"), 5e8, 1e11, bits=4)
        >>> round(made["share of QAT tokens"].value, 2), f"{made['switch at token'].value:.2g}"
        (0.33, '6.7e+10')
    """
    check_positive(params=size, tokens=tokens, bits=bits)
    name = law_name(basis.fit.law)
    if name == "qat_fraction":
        warnings, end = inside(basis.fit, {"N": size, "D": tokens, "bits": bits})
        shares = np.exp(predicted(basis, {"N": size, "D": tokens, "bits": bits}))
    elif name == "qat_loss":
        warnings, end = inside(basis.fit, {"N": size, "bits": bits})
        shares = _least(basis, size, tokens, bits)
    else:
        raise UsageError(f"{name} knows no quantisation", where="plan", fix="fit qat_fraction or qat_loss")
    if not np.isfinite(shares[0]):
        raise UsageError(
            f"{name} has its best share at the edge: more or less quantisation-aware training is always better",
            where="plan",
            fix="fit rows that vary the share",
        )
    figures = (
        figure("share of QAT tokens", shares, basis.level, log=False),
        figure("switch at token", (1.0 - shares) * tokens, basis.level, "tokens", log=False),
    )
    question = f"QAT of N = {digits(size)} at {bits:g} bits on D = {digits(tokens)} tokens"
    said = f"{name} holds there; the schedule of each phase is the table's; constants' error only"
    return Answer(question, figures, said, end, basis.level, None, (*warnings, *basis.vague))


def _least(basis: Basis, size: float, tokens: float, bits: float) -> np.ndarray:
    """The share (k,) of least loss; infinite at an edge."""
    fit = basis.fit
    x = {
        "N": np.full(len(_SHARES), size),
        "bits": np.full(len(_SHARES), bits),
        "D_qat": _SHARES * tokens,
        "D_fp": (1.0 - _SHARES) * tokens,
    }
    values = np.nan_to_num(fit.law.value(basis.theta, x, fit.problem.link), nan=np.inf)
    i = values.argmin(1)
    rows, inner = np.arange(len(values)), np.clip(i, 1, len(_SHARES) - 2)
    shift = vertex(values[rows, inner - 1], values[rows, inner], values[rows, inner + 1])
    return np.where(i == inner, _SHARES[inner] + shift * (_SHARES[1] - _SHARES[0]), np.inf)

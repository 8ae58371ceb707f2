"""Which questions a call means: what is given decides."""

from __future__ import annotations

from ...core.errors import UsageError
from ..arguments import check_level
from ..fit import Solved
from ..formula import law_name
from .answer import Answer, Plan
from .best import best
from .draws import Basis, basis_of
from .lifetime import Life, lifetime
from .limits import check_positive
from .off import off
from .point import along, point
from .reach import reach
from .repeats import epochs, repeats


def plan(
    fit: Solved,
    *,
    compute: float | None = None,
    loss: float | None = None,
    params: float | None = None,
    tokens: float | None = None,
    unique: float | None = None,
    life: Life | None = None,
    level: float = 0.9,
) -> Plan:
    """Answer what is asked of a fit.

    ``compute`` alone: the best N and D, and the price of being off. ``params`` and ``tokens`` (or one of them with
    ``compute``): that run's loss. ``loss``: the cheapest run that reaches it, or that of the given size or tokens; with
    ``life``: the cheapest to train and use. ``unique`` alone, or with ``compute``: how often to repeat tokens.

    ``fit.plan(...)`` calls this. A law answers what its columns know; the special laws' questions have functions of
    their own in this folder.

    Args:
        fit: a fit.
        compute: C, FLOPs.
        loss: to be reached, in the law's unit.
        params: N.
        tokens: D.
        unique: U, tokens that differ.
        life: the requests that the model will answer.
        level: level of the intervals, a share.

    Raises:
        UsageError: nothing is asked, too much is given, a law that cannot answer, or a place too far from its rows.
        DataError: a fit that plans nothing.

    Example, with ``fitted(law)`` a fit:
        >>> made = plan(fitted("chinchilla"), params=1e9, tokens=2e10)
        >>> round(made["loss"].value, 2), round(made["loss"].low, 2), round(made["loss"].high, 2)
        (2.53, 2.52, 2.55)
    """
    check_level(level)
    check_positive(compute=compute, loss=loss, params=params, tokens=tokens, unique=unique)
    basis = basis_of(fit, level)
    if set(fit.law.columns) == {"C"} and compute is not None and (loss, params, tokens, unique, life) == (None,) * 5:
        return Plan((along(basis, compute),), law_name(fit.law))
    if life is not None:
        answers = _of_life(basis, compute, loss, life)
    elif loss is not None:
        if compute is not None or unique is not None:
            raise UsageError("loss says what compute is needed", where="plan", fix="give loss, or compute")
        answers = [reach(basis, loss, params, tokens)]
    else:
        answers = _of_runs(basis, compute, params, tokens, unique)
    return Plan(tuple(answers), law_name(fit.law))


def _of_life(basis: Basis, compute: float | None, loss: float | None, life: Life) -> list[Answer]:
    """For the loss that is given, or that of the best run at a compute."""
    if (compute is None) == (loss is None):
        raise UsageError("a life needs a quality", where="requests", fix="give either loss, or compute (its best loss)")
    if loss is not None:
        return [lifetime(basis, loss, life)]
    assert compute is not None
    first = best(basis, compute)
    return [first, lifetime(basis, first["loss"].value, life)]


def _of_runs(
    basis: Basis, compute: float | None, params: float | None, tokens: float | None, unique: float | None
) -> list[Answer]:
    """Without a loss: two of C, N and D make a run, C alone asks for the best, U for repeats."""
    if compute is not None and params is not None and tokens is not None:
        raise UsageError("compute, params and tokens say one thing twice", where="plan", fix="leave one of them out")
    if compute is not None and params is not None:
        tokens = float(basis.cost.tokens(params, compute))
    elif compute is not None and tokens is not None:
        params = float(basis.cost.size(tokens, compute))
    if params is not None and tokens is not None:
        return [point(basis, params, tokens, unique)]
    if params is not None or tokens is not None:
        raise UsageError(
            f"{'params' if tokens is None else 'tokens'} alone make no run",
            where="plan",
            fix="give compute, loss, or both params and tokens",
        )
    if compute is not None and unique is not None:
        return [repeats(basis, compute, unique), epochs(basis, unique)]
    if unique is not None:
        return [epochs(basis, unique)]
    if compute is None:
        raise UsageError("nothing is asked", where="plan", fix="give compute, loss, params and tokens, or unique")
    return [best(basis, compute), off(basis, compute)]

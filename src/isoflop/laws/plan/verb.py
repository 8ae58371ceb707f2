"""What ``isoflop plan`` does, as one function: a stored fit or a table in, the answers out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...core.reading import user_path
from ...core.table_files import read_table
from ..arguments import check_level
from ..fit import Solved
from ..forms.qqt import SHARED
from ..formula import law_name
from ..law import Fit
from ..stored import refit
from ..tables import as_table
from ..verb import fit_table
from .answer import Answer, Plan
from .ask import plan
from .best import best
from .draws import Basis, basis_of
from .lifetime import Life
from .other_laws import other_laws
from .pools import pools
from .reach import reach


def plan_from(
    source: str | Path | Mapping[str, Any] | Fit,
    law: str = "auto",
    *,
    by: str | None = None,
    columns: Mapping[str, str] | None = None,
    compute: float | None = None,
    loss: float | None = None,
    params: float | None = None,
    tokens: float | None = None,
    unique: float | None = None,
    life: Life | None = None,
    level: float = 0.9,
) -> Plan:
    """Fit, or read a fit, and answer what is asked (see ``isoflop.laws.plan.ask.plan``), under other laws as well.

    Args:
        source: a stored fit (``fit.json``), a CSV table's path, a table, or a fit.
        law: of a table, the law's name, or auto.
        by: of a table, the column of the cuts.
        columns: of a table, the law's column name -> the table's.
        compute: C, FLOPs.
        loss: to be reached, in the law's unit.
        params: N.
        tokens: D.
        unique: U, tokens that differ.
        life: the requests that the model will answer.
        level: level of the intervals, a share.

    Raises:
        DataError, UsageError: see ``fit_table``, ``refit`` and ``plan``.

    Example, with ``fitted(law)`` a fit:
        >>> f"{plan_from(fitted('chinchilla'), params=1e9, tokens=2e10)['loss'].value:.2f}"
        '2.53'
    """
    fit = fit_from(source, law, by, columns)
    made = plan(fit, compute=compute, loss=loss, params=params, tokens=tokens, unique=unique, life=life, level=level)
    beside = None
    if life is None and unique is None and params is None and tokens is None:
        basis = basis_of(fit, level)
        if compute is not None and len(fit.law.columns) > 1:
            beside = other_laws(basis, lambda b: best(b, compute), ("N", "D/N", "loss"))
        elif loss is not None:
            beside = other_laws(basis, lambda b: reach(b, loss), ("C", "N"))
    answers = made.answers if beside is None else (*made.answers, beside)
    return Plan(answers, f"{law_name(fit.law)}: {_constants(fit)}")


def basis_from(
    source: str | Path | Mapping[str, Any] | Fit, law: str, columns: Mapping[str, str] | None = None, level: float = 0.9
) -> Basis:
    """A fit of one law, read or made, with its draws: what the questions of ``isoflop.laws.plan`` stand on.

    Args:
        source: a stored fit, a CSV table's path, a table, or a fit.
        law: the law's name; of a table it is fitted.
        columns: of a table, the law's column name -> the table's.
        level: level of the intervals, a share.

    Example, with ``fitted(law)`` a fit:
        >>> basis_from(fitted("overtraining_error"), "overtraining_error").level
        0.9
    """
    check_level(level)
    return basis_of(fit_from(source, law, None, columns), level)


def pools_from(
    table: Mapping[str, Any], group: str, seen: float, pool: float, columns: Mapping[str, str] | None = None
) -> Answer:
    """``pools`` of a table with one pool's rows a value of ``group``, best quality first as they appear.

    All pools are fitted with the scale and the floor of the first one, as their mixtures have one of each.

    Args:
        table: columns seen, pool and error, and the one that names the pools.
        group: that column.
        seen: samples that will be seen.
        pool: samples in each pool.
        columns: the law's column name -> the table's.

    Raises:
        DataError: no such column, or rows that no law can be fitted to.
    """
    rows = as_table(table)
    member = rows.texts(group)
    first, *others = dict.fromkeys(member.tolist())
    fits = {first: fit_from(rows.where(member == first), "qqt", None, columns)}
    shared = {name: fits[first].params[name] for name in SHARED}
    for name in others:
        fits[name] = fit_table(rows.where(member == name), "qqt", columns=columns, fixed=shared).fit
    return pools({name: basis_from(fit, "qqt") for name, fit in fits.items()}, seen, pool)


def fit_from(source: str | Path | Mapping[str, Any] | Fit, law: str, by: str | None, columns: Any) -> Fit:
    """The fit itself, or one that is read or made (see ``basis_from``)."""
    if isinstance(source, Fit):
        return source
    if isinstance(source, str | Path):
        path = user_path(source)
        if path.suffix == ".json":
            return refit(path)
        source = read_table(path)
    return fit_table(source, law, by=by, columns=columns).fit


def _constants(fit: Solved) -> str:
    return ", ".join(f"{name} {value:.5g}" for name, value in fit.params.items())

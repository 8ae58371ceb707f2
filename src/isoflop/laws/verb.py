"""What ``isoflop fit`` does, as one function: a table's path in, a fit (or a comparison's best) and its text out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import DataError, IsoflopError, UsageError, nearest
from ..core.files import jsonable
from ..core.registry import get, names
from ..core.slots import part_from
from ..core.table import Table
from ..core.table_files import read_table
from ..store.fits import FitDocument, Row, StoredComparison, StoredForecast, StoredScore, StoredVariant
from ..store.notebook import text as as_text
from .arguments import check_level
from .comparison import Comparison, compare
from .curves import ahead, axis, isoflops, points
from .export import stored
from .formula import law_name
from .guesses import guess, proposal
from .law import Fit, Law
from .questions import predictions, told
from .report import report
from .sensitivities import Variant, sensitivity
from .sweeps import best_of as best_rows
from .sweeps import sweep_warning
from .tables import as_table, check_finite, rename


@dataclass(frozen=True)
class FitResult:
    """A fit and everything that was asked of it.

    Attributes:
        fit: the fit.
        comparison: what it was chosen by; None if a law was named.
        text: everything as text.
        sensitivity: the fit under other choices; () if it did not converge.
        predictions: what was asked for (``asked``).

    Example:
        >>> compute = [1e15, 1e16, 1e17, 1e18, 1e19]
        >>> result = fit_table({"C": compute, "loss": [2 + 3e3 / c**0.2 for c in compute]}, "power_floor")
        >>> result.fit.rows, result.comparison is None
        (5, True)
    """

    fit: Fit
    comparison: Comparison | None
    text: str
    sensitivity: tuple[Variant, ...] = ()
    predictions: tuple[Row, ...] = ()

    def asked(self, questions: Sequence[Mapping[str, float]], level: float = 0.9) -> FitResult:
        """The same with predictions (see ``isoflop.laws.questions.predictions``), which its text ends with."""
        rows = predictions(self.fit, questions, level)
        return replace(self, predictions=tuple(rows), text=f"{self.text}\n\n{told(self.fit, rows, level)}")

    def _repr_html_(self) -> str:
        """What a notebook shows: all of the text."""
        return as_text(self.text)

    def document(self, level: float = 0.9, source: str = "") -> FitDocument:
        """What ``fit.json`` holds and a page draws.

        Args:
            level: level of the intervals of predictions, a share.
            source: the name of what was fitted.
        """
        law = self.fit.law
        return FitDocument(
            source=source,
            equation=type(law).card.equation,
            target=law.target,
            axis=axis(self.fit),
            relative=self.fit.problem.link == "log" and not law.likelihood,
            text=self.text,
            fit=stored(self.fit),
            level=level,
            points=points(self.fit, level),
            isoflops=isoflops(self.fit),
            ahead=ahead(self.fit, level),
            sensitivity=[StoredVariant(**jsonable(asdict(variant))) for variant in self.sensitivity],
            predictions=list(self.predictions),
            comparison=None if self.comparison is None else _scores(self.comparison),
        )

    def to_json(self, level: float = 0.9, source: str = "") -> dict[str, Any]:
        """``document`` as JSON values."""
        return self.document(level, source).model_dump(mode="json")


def law_named(name: str, **fields: Any) -> Law:
    """The registered law of that name, with its fields.

    Args:
        name: of the law, or its table, as ``{name = "critical_batch", base = 4}``.
        fields: of the law that is named.

    Raises:
        UsageError: no such law, and the nearest name is given; or no such field.

    Example:
        >>> law_named('{name = "critical_batch", base = 4}').base
        4.0
    """
    table = name.lstrip().startswith("{")
    if table and fields:
        raise UsageError(f"{name} has its fields already", where="fields", fix="give them in one place")
    made = part_from("law", name) if table else get("law", name)(**fields)
    assert isinstance(made, Law), name
    return made


def fitting_laws(table: Table, target: str = "loss") -> list[Law]:
    """The registered laws, at their defaults, whose columns the table has and whose target is ``target``."""
    laws = []
    for name in names("law"):
        law = law_named(name)
        if law.target == target and {*law.columns, target} <= set(table):
            laws.append(law)
    return laws


def fit_table(
    source: str | Path | Mapping[str, Any],
    law: str | Law = "auto",
    *,
    by: str | None = None,
    columns: Mapping[str, str] | None = None,
    fields: Mapping[str, Any] | None = None,
    target: str = "loss",
    level: float = 0.95,
    drop_highest: int = 0,
    best_of: Sequence[str] = (),
    **settings: Any,
) -> FitResult:
    """Fit a CSV file (or table) and say everything about it.

    Args:
        source: path of a CSV file with a header, or of a Parquet file; or a table.
        law: a law's name or table, a Law, or "auto": the best extrapolation among the laws whose columns are there.
        by: column of the cuts of the comparison; default C, else 6 N D.
        columns: the law's column name -> the table's, as in ``--columns N=params,D=tokens``. A column that is missing
            and for which one alone of the table's has a usual name (params, train_loss) is guessed, which is said.
        fields: fields of the named law.
        target: the column to be predicted, by which "auto" chooses among laws.
        level: of the intervals in the text.
        drop_highest: leave out so many rows with the highest target (a published outlier rule); of equal rows the last.
        best_of: columns that were swept, e.g. ("lr", "batch"): of the rows that agree in the law's other columns the
            best one is kept.
        settings: fields of ``Settings``.

    Raises:
        DataError, UsageError: see ``fit_law`` and ``compare``.

    Example:
        >>> compute = [1e15, 1e16, 1e17, 1e18, 1e19]
        >>> result = fit_table({"C": compute, "loss": [2 + 3e3 / c**0.2 for c in compute]}, "power_floor")
        >>> round(result.fit.params["E"], 3), result.text.partition(":")[0]
        (2.0, 'power_floor')
    """
    table = read_table(source) if isinstance(source, str | Path) else as_table(source)
    check_level(level)
    named = None if law == "auto" else law_named(law, **dict(fields or {})) if isinstance(law, str) else law
    wanted = ("N", "D", "C", target) if named is None else (*named.columns, named.target)
    renames, notes = dict(columns or {}), list[str]()
    if guessed := guess(wanted, table, renames):
        renames |= guessed
        said = ", ".join(f"{new}={old}" for new, old in guessed.items())
        notes.append(f"columns guessed: {said} (--columns decides)")
    measured = target if named is None else named.target
    if best_of:
        known = rename(table, renames)
        laws = fitting_laws(known, target) if named is None else [named]
        of_laws = dict.fromkeys(column for each in laws for column in each.columns)
        kept, said = best_rows(known, best_of, of_laws, measured)
        table = table.where(kept)
        notes.append(said)
    if drop_highest:
        table = _without_highest(table, renames.get(measured, measured), drop_highest)
    fit, comparison = (
        _fit_best(table, target, by, renames, settings)
        if named is None
        else (_fit_named(table, named, target, by, renames, settings), None)
    )
    if not best_of and (warning := sweep_warning(fit, rename(table, renames))):
        fit = replace(fit, warnings=(*fit.warnings, warning))
    variants = tuple(sensitivity(fit)) if fit.converged else ()
    text = report(fit, level, variants)
    if comparison is not None:
        text = f"{comparison}\nchosen: {law_name(fit.law)}\n\n{text}"
    return FitResult(fit, comparison, "\n".join([*notes, text]), variants)


def _fit_named(
    table: Table, law: Law, target: str, by: str | None, renames: dict[str, str], settings: Mapping[str, Any]
) -> Fit:
    if target not in ("loss", law.target):
        raise UsageError(
            f"{law_name(law)} predicts {law.target}", where="target", fix=f"--columns {law.target}={target}"
        )
    known = rename(table, renames)
    _check_by(by, known)
    if by and by in table and "C" not in renames and "C" not in table:
        renames["C"] = by
    missing = [name for name in (*law.columns, law.target) if name not in known]
    if missing and (advice := proposal(missing, table)):
        raise DataError(f"law {law_name(law)} needs {', '.join(missing)}", where="table", fix=f"say which: {advice}")
    return law.fit(table, columns=renames, **settings)


def _fit_best(
    table: Table, target: str, by: str | None, renames: dict[str, str], settings: Mapping[str, Any]
) -> tuple[Fit, Comparison | None]:
    """The fit of the law that extrapolates best, among those whose columns are there."""
    known = rename(table, renames) if renames else table
    _check_by(by, known)
    if by and "C" not in known:
        known = known.with_columns(C=known[by])
    laws = fitting_laws(known, target)
    if not laws:
        advice = proposal([name for name in ("N", "D", "C", target) if name not in known], known)
        raise UsageError(
            f"no law predicts {target!r} from the columns {', '.join(known)}",
            where="--law auto",
            fix=advice or "rename columns (N parameters, D tokens, C FLOPs, loss), or name a law",
        )
    chosen, comparison = _best(known, laws, by, settings)
    return chosen.fit(known, **settings), comparison


def _best(table: Table, laws: list[Law], by: str | None, settings: Mapping[str, Any]) -> tuple[Law, Comparison | None]:
    if len(laws) == 1:
        return laws[0], None
    try:
        comparison = compare(table, laws, by=by, **settings)
    except IsoflopError as error:
        names_of = ", ".join(law_name(law) for law in laws)
        raise DataError(
            f"the laws {names_of} cannot be compared by extrapolation ({error})", where="--law auto", fix="name a law"
        ) from error
    return next(law for law in laws if law_name(law) == comparison.best), comparison


def _check_by(by: str | None, known: Table) -> None:
    """DataError if the column of the cuts is not there, or holds no finite numbers."""
    if not by:
        return
    if by not in known:
        raise DataError(f"no column {by!r}", where="--by", fix=nearest(by, known))
    check_finite(by, known.numbers(by), fix="drop those rows, or cut along another column")


def _without_highest(table: Table, column: str, count: int) -> Table:
    y = table.numbers(column)
    check_finite(column, y, fix="drop those rows first; a run that failed is no outlier")
    if not 0 < count < len(y):
        raise UsageError(f"cannot drop {count} of {len(y)} rows", where="drop_highest", fix="give fewer")
    kept = np.argsort(y, kind="stable")[:-count]
    return table.where(np.sort(kept))


def _scores(comparison: Comparison) -> StoredComparison:
    scores = [StoredScore(**jsonable(asdict(score))) for score in comparison.scores]
    forecasts = [
        StoredForecast(**{name: jsonable(getattr(forecast, name)) for name in StoredForecast.model_fields})
        for forecast in comparison.forecasts[comparison.best]
    ]
    return StoredComparison(level=comparison.level, scores=scores, forecasts=forecasts)

"""A fit as JSON that can be made again: law, settings, the rows themselves, and the result to compare with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.digests import digest
from ..core.errors import DataError, UsageError
from ..core.files import write_json
from ..core.reading import read_json, user_path
from ..core.registry import get
from ..core.table import Table
from .checks import law_name
from .fit import Settings, fit_law
from .law import Law

if TYPE_CHECKING:
    from .fit import Fit

FORMAT = "isoflop.fit/1"


def to_json(fit: Fit, level: float = 0.95) -> dict[str, Any]:
    """JSON values: the law with its fields, settings, rows, constants with intervals and verdicts, certificate."""
    intervals = {
        name: {"low": finite(i.low), "high": finite(i.high), "level": level, "verdict": i.verdict, "reason": i.reason}
        for name, i in (fit.intervals(level) if fit.converged else {}).items()
    }
    certificate = {name: finite(getattr(fit.certificate, name)) for name in type(fit.certificate).__dataclass_fields__}
    columns = {name: fit.table[name].tolist() for name in fit.table}
    return {
        "format": FORMAT,
        "law": {**fit.law.model_dump(mode="json"), "name": law_name(fit.law)},
        "settings": fit.settings.model_copy(update={"columns": {}}).model_dump(mode="json"),
        "columns": columns,
        "digest": digest(columns),
        "params": fit.params,
        "intervals": intervals,
        "objective": fit.objective,
        "certificate": certificate,
        "warnings": list(fit.warnings),
    }


def save(fit: Fit, path: str | Path) -> None:
    """Write ``to_json`` atomically."""
    write_json(user_path(path), to_json(fit))


def refit(stored: Mapping[str, Any] | str | Path, law: Law | None = None) -> Fit:
    """Make a stored fit again from its own rows; ``law`` is needed for laws that are not registered.

    Raises:
        DataError: not a stored fit, a damaged one, changed rows, or another optimum than the stored one.
    """
    where = str(stored) if isinstance(stored, str | Path) else "fit"
    tree = read_json(user_path(stored)) if isinstance(stored, str | Path) else stored
    if isinstance(tree, Mapping) and isinstance(tree.get("fit"), Mapping):  # what `isoflop fit --out` keeps
        tree = tree["fit"]
    if not isinstance(tree, Mapping) or tree.get("format") != FORMAT:
        raise DataError(f"is not a stored fit ({FORMAT})", where=where, fix="export one with isoflop fit --out")
    try:
        law, settings, table = _read(tree, where, law)
        objective = float(tree["objective"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"is a damaged fit ({error!r})", where=where, fix="export the fit again") from error
    fit = fit_law(law, table, settings)
    if not abs(fit.objective - objective) <= 1e-6 * max(abs(objective), 1e-300):
        raise DataError(
            f"its objective is {objective:.10g}, the refit's {fit.objective:.10g}",
            where=where,
            fix="compare versions",
        )
    return fit


def _read(tree: Mapping[str, Any], where: str, law: Law | None) -> tuple[Law, Settings, Table]:
    if digest(tree["columns"]) != tree["digest"]:
        raise DataError("its rows do not match their digest", where=where, fix="export the fit again")
    if law is None:
        fields = dict(tree["law"])
        made = get("law", fields.pop("name"))(**fields)
        if not isinstance(made, Law):
            raise UsageError("its law is not of this library", where=where, fix="pass law=")
        law = made
    return law, Settings.model_validate(_tuples(tree["settings"])), Table(tree["columns"])


def _tuples(settings: Mapping[str, Any]) -> dict[str, Any]:
    out = dict(settings)
    for name in ("bounds", "priors"):
        out[name] = {k: tuple(v) for k, v in out[name].items()}
    return out


def finite(value: Any) -> Any:
    """JSON has no infinity: None."""
    if isinstance(value, tuple):
        return list(value)
    return None if isinstance(value, float) and not np.isfinite(value) else value

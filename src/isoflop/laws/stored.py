"""A stored fit (``isoflop.laws.export``), made again from its own rows and compared with what was stored."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..core.digests import digest
from ..core.errors import DataError, UsageError
from ..core.reading import read_json, user_path
from ..core.registry import get
from ..core.table import Table
from ..store.fits import FORMAT
from .fit import Settings
from .law import Fit, Law


def refit(stored: Mapping[str, Any] | str | Path, law: Law | None = None) -> Fit:
    """Make a stored fit again from its own rows.

    A stored fit holds its rows and settings, not only constants, so that anybody can ask it new questions, or check it.

    Args:
        stored: what ``to_json`` gives, or the path of a file that holds it (also the one of ``isoflop fit --out``).
        law: the law; needed for laws that are not registered.

    Raises:
        DataError: not a stored fit, a damaged one, changed rows, or another optimum than the stored one.

    Example:
        >>> from isoflop.laws import Power
        >>> stored = Power().fit({"C": [1.0, 2.0, 4.0], "y": [1.0, 2.1, 3.9]}).to_json()
        >>> round(refit(stored).params["a"], 3)
        0.982
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
    fit = law.fit(table, settings)
    # Other versions of numpy differ in the last digits; other data or another law by far more.
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

"""A fit as JSON that can be made again (``isoflop.laws.stored``): law, settings, the rows themselves, the result."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..core.digests import digest
from ..core.files import jsonable, write_json
from ..core.reading import user_path
from ..store.fits import StoredCertificate, StoredFit, StoredInterval
from .fit import Solved
from .formula import law_name
from .intervals import Interval, intervals


def to_json(fit: Solved, level: float = 0.95) -> dict[str, Any]:
    """JSON values: the law with its fields, settings, rows, constants with intervals and verdicts, certificate.

    Args:
        fit: the fit; one that did not converge has no intervals.
        level: level of the intervals, a share.

    Example:
        >>> from isoflop.laws import Power
        >>> kept = to_json(Power().fit({"C": [1.0, 2.0, 4.0], "y": [1.0, 2.1, 3.9]}))
        >>> kept["law"], kept["columns"]["y"], sorted(kept["intervals"])
        ({'name': 'power'}, [1.0, 2.1, 3.9], ['A', 'a'])
    """
    return stored(fit, level).model_dump(mode="json")


def stored(fit: Solved, level: float = 0.95) -> StoredFit:
    """What ``to_json`` gives, as the schema of stored fits."""
    known = intervals(fit, level) if fit.converged else {}
    columns = {name: fit.table[name].tolist() for name in fit.table}
    return StoredFit(
        law={**fit.law.model_dump(mode="json"), "name": law_name(fit.law)},
        settings=fit.settings.model_copy(update={"columns": {}}).model_dump(mode="json"),
        columns=columns,
        digest=digest(columns),
        params=fit.params,
        intervals={name: _interval(interval, level) for name, interval in known.items()},
        objective=fit.objective,
        certificate=StoredCertificate(**jsonable(asdict(fit.certificate))),
        warnings=list(fit.warnings),
    )


def _interval(interval: Interval, level: float) -> StoredInterval:
    low, high = jsonable([interval.low, interval.high])
    return StoredInterval(low=low, high=high, level=level, verdict=interval.verdict, reason=interval.reason)


def save(fit: Solved, path: str | Path) -> None:
    """Write ``to_json`` to a file, atomically.

    ``refit`` reads the file, makes the fit again and refuses rows that were changed.

    Args:
        fit: the fit.
        path: the file, by custom ``fit.json``.

    Example:
        >>> from isoflop.laws import Power, refit
        >>> save(Power().fit({"C": [1.0, 2.0, 4.0], "y": [1.0, 2.1, 3.9]}), "fit.json")
        >>> round(refit("fit.json").params["a"], 3)
        0.982
    """
    write_json(user_path(path), to_json(fit))

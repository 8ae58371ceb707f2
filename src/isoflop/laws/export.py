"""A fit as JSON that can be made again (``isoflop.laws.stored``): law, settings, the rows themselves, the result."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from ..core.digests import digest
from ..core.files import jsonable, write_json
from ..core.reading import user_path
from .fit import Solved
from .formula import law_name
from .intervals import Interval, intervals

FORMAT = "isoflop.fit/1"


def to_json(fit: Solved, level: float = 0.95) -> dict[str, Any]:
    """JSON values: the law with its fields, settings, rows, constants with intervals and verdicts, certificate.

    Args:
        fit: the fit; one that did not converge has no intervals.
        level: level of the intervals, a share.
    """
    known = intervals(fit, level) if fit.converged else {}
    certificate = {field.name: getattr(fit.certificate, field.name) for field in fields(fit.certificate)}
    columns = {name: fit.table[name].tolist() for name in fit.table}
    return {
        "format": FORMAT,
        "law": {**fit.law.model_dump(mode="json"), "name": law_name(fit.law)},
        "settings": fit.settings.model_copy(update={"columns": {}}).model_dump(mode="json"),
        "columns": columns,
        "digest": digest(columns),
        "params": fit.params,
        "intervals": {name: _interval(interval, level) for name, interval in known.items()},
        "objective": fit.objective,
        "certificate": jsonable(certificate),
        "warnings": list(fit.warnings),
    }


def _interval(interval: Interval, level: float) -> dict[str, Any]:
    ends = {"low": interval.low, "high": interval.high, "level": level}
    return {**jsonable(ends), "verdict": interval.verdict, "reason": interval.reason}


def save(fit: Solved, path: str | Path) -> None:
    """Write ``to_json`` to a file, atomically."""
    write_json(user_path(path), to_json(fit))

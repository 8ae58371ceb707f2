"""The fit of a scaling law as a report sees it: its stored JSON, in words and in tables."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from ..core.reading import read_json
from ..ledger.conventions import six_nd
from ..store.fits import FIT, FitDocument, Row
from .sheets import Sheet
from .text import TIMES, clean, digits, probability


class FitRecord(FitDocument):
    """A stored fit in words and in tables."""

    @classmethod
    def read(cls, directory: Path) -> FitRecord:
        """Read a directory's ``fit.json``; DataError if it is no fit."""
        return cast(FitRecord, read_json(Path(directory) / FIT, cls))

    # ------------------------------------------------------------ in words

    @property
    def law(self) -> str:
        return str(self.fit.law.get("name", ""))

    @property
    def unidentified(self) -> list[str]:
        """Constants that the rows do not determine, each with the reason."""
        found = self.fit.intervals.items()
        return [f"{name} is unidentified: {i.reason}" for name, i in found if i.verdict == "unidentified"]

    def headline(self) -> str:
        """What the fit predicts at ten times the dearest row, and what it does not know."""
        if not self.fit.certificate.converged:
            return "The fit did not converge: its constants are not an optimum."
        lines = []
        for row in self.ahead:
            value, low, high = row["predicted"], row["low"], row["high"]
            if row["times"] == 10 and value is not None:
                interval = "" if low is None or high is None else f", {100 * self.level:g} % interval "
                interval += f"{digits(low, 4)} to {digits(high, 4)}" if low is not None and high is not None else ""
                lines.append(f"At 10{TIMES} the table's largest compute: {self.target} {digits(value, 4)}{interval}.")
        vague = [name for name, i in self.fit.intervals.items() if i.verdict == "unidentified"]
        if vague:
            lines.append(f"Not determined by these rows: {', '.join(vague)}.")
        return "\n".join(lines) or self.equation or self.law

    def facts(self) -> dict[str, str]:
        """The line of facts under the headline."""
        c, settings = self.fit.certificate, self.fit.settings
        return {
            "Law": self.law.replace("_", " "),
            "Rows": f"{len(self.points):,}",
            "Loss": str(settings.get("loss", "")),
            "Objective": f"{self.fit.objective:.6g}",
            "Starts at the optimum": f"{100 * c.share:.0f} % of {c.starts}",
        }

    def axis_title(self) -> str:
        if self.axis in ("C", "6 N D"):
            return f"training compute {self.axis}, FLOPs"
        return self.axis or "the law's own measure of compute"

    # ------------------------------------------------------------ tables

    def constant_sheet(self) -> Sheet:
        """Constants with intervals and verdicts (reasons: ``unidentified``); none of a fit that did not converge."""
        lines: list[tuple[str, ...]] = []
        level = 0.95
        for name, value in self.fit.params.items() if self.fit.certificate.converged else ():
            i = self.fit.intervals.get(name)
            if i is None:
                lines.append((clean(name), digits(value, 6), "", "", "held"))
                continue
            level = i.level
            lines.append((clean(name), digits(value, 6), _end(i.low), _end(i.high), clean(i.verdict)))
        note = f"{100 * level:g} % profile-likelihood intervals. Unidentified: the rows do not determine the constant; "
        note += "predictions may still be good, since constants trade off."
        columns = ("constant", "value", "low", "high", "verdict")
        return Sheet("Constants", columns, lines, frozenset({1, 2, 3}), note)

    def sensitivity_sheet(self) -> Sheet:
        """The fit under other choices: a line a refit, with its rows and constants, or why it has none."""
        names = list(self.fit.intervals)
        lines = []
        for variant in self.sensitivity:
            params = [variant.params.get(name) for name in names if not variant.failed] or [None] * len(names)
            cells = ["" if value is None else digits(value, 4) for value in params]
            lines.append((clean(variant.choice), f"{variant.rows:,}", *cells, clean(variant.failed)))
        columns = ("choice", "rows", *map(clean, names), "")
        return Sheet("Sensitivity", columns, lines, frozenset(range(1, len(columns) - 1)))

    def ahead_sheet(self) -> Sheet:
        """What the law predicts beyond the table."""
        names = [name for name in (self.ahead[0] if self.ahead else {}) if name not in PREDICTED]
        lines = [
            (f"{row['times'] or 0:g}{TIMES}", *(_end(row[name]) for name in (*names, "predicted", "low", "high")))
            for row in self.ahead
        ]
        columns = ("compute", *(clean(name) for name in names), f"{clean(self.target)}", "low", "high")
        note = f"{100 * self.level:g} % intervals, the law's own error under extrapolation included."
        return Sheet("Ahead", columns, lines, frozenset(range(1, len(columns))), note)

    def optimum_sheet(self) -> Sheet:
        """The optimum of every isoFLOP curve."""
        lines = []
        for curve in self.isoflops:
            if curve.best_N is None:
                lines.append((power(curve.compute), "outside the sizes drawn", "", "", ""))
                continue
            tokens = curve.compute / six_nd(curve.best_N, 1)
            lowest = min(value for value in curve.loss if value is not None)
            lines.append(
                (
                    power(curve.compute),
                    power(curve.best_N),
                    power(tokens),
                    digits(tokens / curve.best_N),
                    digits(lowest, 4),
                )
            )
        columns = ("compute C", "best N", "best D = C / 6 N", "D / N", "loss")
        return Sheet("Optima", columns, lines, frozenset({1, 2, 3, 4}))

    def score_sheet(self) -> Sheet:
        """The compared laws, best extrapolation first."""
        if self.comparison is None:
            return Sheet("Comparison", ("law",), [])
        figures = ("error", "bias", "coverage", "width", "interval_score", "fit_error")
        lines = []
        for score in self.comparison.scores:
            numbers = [getattr(score, name) for name in figures]
            cells = ["" if score.failed or v is None else f"{100 * v:.2f}" for v in numbers]
            lines.append((clean(score.law), *cells, probability(score.p), clean(score.failed)))
        columns = ("law", "error %", "bias %", "coverage %", "width %", "interval score %", "in the fit %", "p", "")
        note = "Each law fitted below a cut in compute and asked for the rows above it, cut after cut; ranked by the "
        note += f"error there, never by that in the fit. {100 * self.comparison.level:g} % intervals; p against the "
        note += "best, adjusted by Holm."
        return Sheet("Comparison by extrapolation", columns, lines, frozenset(range(1, 8)), note)

    # ------------------------------------------------------------ for charts

    @property
    def columns(self) -> list[str]:
        """The law's own columns."""
        return [name for name in (self.points[0] if self.points else {}) if name not in _MEASURED]

    def largest(self) -> Row | None:
        """The row of the most compute."""
        known = [row for row in self.points if row["compute"]]
        return max(known, key=lambda row: row["compute"] or 0.0, default=None)


PREDICTED = ("times", "predicted", "low", "high")
_MEASURED = ("compute", "observed", "predicted", "low", "high", "residual")


def _end(value: float | None) -> str:
    """A number, or that an interval is open there."""
    return "open" if value is None else power(value) if abs(value) >= 1e7 else digits(value, 4)


def power(value: float) -> str:
    """Large numbers as the field writes them: 5.76e23."""
    mantissa, _, power = f"{value:.2e}".partition("e")
    return f"{float(mantissa):g}e{int(power)}" if abs(value) >= 1e6 else digits(value)

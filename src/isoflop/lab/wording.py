"""A multiplier in words: always how many times the arm's amount the baseline needs, as tables and charts show it."""

from __future__ import annotations

import math

from ..store.records import UNSAID
from ..store.results import Axis, MultiplierRow, decimals

NOUNS: dict[Axis, tuple[str, str]] = {
    "flops": ("compute", "much"),
    "hardware_flops": ("executed compute", "much"),
    "steps": ("steps", "many"),
    "tokens": ("tokens", "many"),
    "text_bytes": ("text", "much"),
    "seconds": ("time", "much"),
}
"""What an axis counts, and the word between "as" and "as" for it."""


def sentence(row: MultiplierRow, baseline: str, unit: str = UNSAID.unit) -> str:
    """The row in words, as printed: what it shows, and how many times as much the baseline needs.

    Args:
        row: what is said.
        baseline: name of the arm that it is compared with.
        unit: unit of the quality.
    """
    noun, many = NOUNS[row.axis]
    if row.censored == "mixed" or (row.value is None and row.bound is None):
        what = f"{row.censored_seeds} of {row.seeds} seeds lie outside {baseline}'s ladder, on both sides"
        return f"{row.arm} cannot be compared in {noun}: {what}{_charged(row)}"
    factor, known = _bound(row, baseline) if row.value is None else (amount(row), f"{interval(row)}, {row.seeds} seeds")
    needs = f"{baseline} needs {factor} as {many} for the same {unit} ({known}{_charged(row)})"
    return f"{_finding(row, baseline)}: {needs}{_of_bounds(row, baseline, unit)}"


def amount(row: MultiplierRow) -> str:
    """A row's multiplier with as many digits as its interval allows: "1.14x"."""
    assert row.value is not None
    return f"{row.value:.{_digits(row)}f}x"


def interval(row: MultiplierRow) -> str:
    """How sure a multiplier is: "95 % interval 1.09 to 1.20"."""
    digits = _digits(row)
    return f"{100 * row.level:.3g} % interval {row.low:.{digits}f} to {row.high:.{digits}f}"


def side_of_one(row: MultiplierRow) -> int:
    """1: the whole interval (or the bound, of seeds all censored) lies above 1; -1: below; 0: neither."""
    if row.low is not None and row.high is not None:
        return 1 if row.low > 1 else -1 if row.high < 1 else 0
    if row.bound is None or row.censored_seeds < row.seeds:
        return 0
    return {"above": int(row.bound >= 1), "below": -int(row.bound <= 1)}.get(row.censored, 0)


def _finding(row: MultiplierRow, baseline: str) -> str:
    """What a row shows, as a clause."""
    noun, _ = NOUNS[row.axis]
    if row.censored == "above" and (row.bound or 0) >= 1:
        return f"{row.arm} saves {noun}"
    if row.censored and side_of_one(row) < 0:
        return f"{row.arm} takes more {noun}"
    if row.censored or (row.significant and not row.conclusive):
        return f"{row.arm}'s place in {noun} is known only as a bound"
    if not row.significant:
        return f"{row.arm} shows no significant difference from {baseline} in {noun}"
    return f"{row.arm} {'saves' if (row.value or 0) > 1 else 'takes more'} {noun}"


def _bound(row: MultiplierRow, baseline: str) -> tuple[str, str]:
    """A censored row's factor, rounded so that it claims no more, and the seeds that it rests on."""
    assert row.bound is not None
    some = f"{row.censored_seeds} of {row.seeds} seeds"
    counted = ", counted as if at it" if row.censored_seeds < row.seeds else ""
    counted += f"; the end of a {100 * row.bound_level:.3g} % interval" if row.bound_level else ""
    if row.censored == "above":
        factor = f"more than {math.floor(round(100 * row.bound, 6)) / 100:.2f}x"
        return factor, f"{some} end beyond the top of {baseline}'s ladder{counted}"
    factor = f"less than {math.ceil(round(100 * row.bound, 6)) / 100:.2f}x"
    return factor, f"{some} end at or below the start of {baseline}'s ladder{counted}"


def _charged(row: MultiplierRow) -> str:
    return ", tuning charged" if row.all_in else ""


def _of_bounds(row: MultiplierRow, baseline: str, unit: str) -> str:
    return {
        "": "",
        "arm": f"; {row.arm}'s {unit} is a bound: the multiplier may be higher",
        "baseline": f"; {baseline}'s {unit} is a bound: the multiplier may be lower",
        "both": f"; both sides' {unit} is a bound: bounds are compared",
    }[row.bounds]


def _digits(row: MultiplierRow) -> int:
    assert row.low is not None
    assert row.high is not None
    return max(2, decimals(row.low, row.high))  # as tables print it

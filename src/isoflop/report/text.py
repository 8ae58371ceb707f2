"""Numbers and names as people read them, for the terminal and the page alike."""

from __future__ import annotations

import math
import unicodedata
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ..store.names import printable

TIMES, MINUS, NOTHING = "\N{MULTIPLICATION SIGN}", "\N{MINUS SIGN}", "\N{EN DASH}"
CONVENTION = "multiply-add = 2, attention causal-exact"
"""The FLOP convention, short enough for an axis."""
COMPUTE = ("training compute, model FLOPs", f"({CONVENTION})")
"""Title of the axis that charts share, in two lines."""
CONVENTION_LONG = (
    "FLOPs are matrix-multiplication-class model FLOPs of training: one multiply-add counts 2, attention is "
    "causal-exact, the backward pass is twice the forward pass, an embedding look-up is 0, the head and the "
    "optimizer's own products are counted."
)


@dataclass(frozen=True)
class AxisName:
    """How an axis is written: ``label`` in a table, ``unit`` after an SI prefix.

    Example:
        >>> AxisName("FLOPs", "FLOP").unit
        'FLOP'
    """

    label: str
    unit: str = ""


AXES = {
    "flops": AxisName("FLOPs", "FLOP"),
    "hardware_flops": AxisName("hardware FLOPs", "FLOP"),
    "elementwise": AxisName("elementwise"),
    "moved": AxisName("bytes moved", "B"),
    "steps": AxisName("steps"),
    "tokens": AxisName("tokens"),
    "text_bytes": AxisName("text bytes", "B"),
    "seconds": AxisName("seconds", "s"),
}
_MOST = 1e300
"""The largest number that is drawn on a linear axis: drawing what lies far beyond ends the whole process."""
_PREFIXES = ["", "k", "M", "G", "T", "P", "E", "Z", "Y"]


def clean(value: Any) -> str:
    """One line of text without control or bidirectional characters, whatever ``value`` holds."""
    return printable(str(value))


def known(value: Any) -> float | None:
    """A measured number as a float; None where there is none, or none that has a place on an axis."""
    try:
        number = float("nan" if value is None else value)
    except OverflowError:
        return None
    return number if abs(number) <= _MOST else None


def clean_lines(text: str) -> str:
    """The same for text of several lines: newlines and indentation stay."""
    kept = (c for c in text.expandtabs(4) if c == "\n" or not unicodedata.category(c).startswith("C"))
    return "".join(kept).strip("\n")


def axis_label(axis: str) -> str:
    """A label for a table: FLOPs for ``flops``; an axis that is not known keeps its name."""
    return AXES[axis].label if axis in AXES else clean(axis).replace("_", " ")


def digits(value: float, count: int = 3) -> str:
    """``value`` with ``count`` significant digits and no exponent where it can be read without."""
    if not math.isfinite(value):
        return str(value)
    if value == 0:
        return "0"
    rounded = float(f"{value:.{count - 1}e}")
    exponent = math.floor(math.log10(abs(rounded)))
    if not -5 < exponent < 7:
        return f"{value:.{count - 1}e}"
    return f"{rounded:.{max(count - 1 - exponent, 0)}f}"


def times(factor: float) -> str:
    """A multiplier without its sign: two decimals below 10, three digits elsewhere."""
    return f"{factor:.2f}" if 0.1 <= factor < 9.995 else digits(factor)


def bound(factor: float, side: str) -> str:
    """A bound on a multiplier, rounded so that it claims no more: "> 4.10" (side "above") or "< 0.72" ("below")."""
    step = 10.0 ** (math.floor(math.log10(factor)) - 2 if not 0.1 <= factor < 10 else -2)
    snug = factor / step * (1 - 1e-12 if side == "below" else 1 + 1e-12)  # 7.41 / 0.01 is a hair off
    return f"> {times(math.floor(snug) * step)}" if side == "above" else f"< {times(math.ceil(snug) * step)}"


def si(value: float, unit: str = "", count: int = 3) -> str:
    """With an SI prefix from k to Y: "1.23 TFLOP"."""
    power = 0
    if value and math.isfinite(value):
        power = min(max(math.floor(math.log10(abs(value)) / 3), 0), len(_PREFIXES) - 1)
        if abs(float(digits(value / 1000**power, count))) >= 1000 and power < len(_PREFIXES) - 1:
            power += 1
    number = digits(value / 1000**power, count)
    tail = f"{_PREFIXES[power]}{unit}"
    return f"{number} {tail}" if tail else number


def amount(axis: str, value: float) -> str:
    """An amount on an axis: "1.23 TFLOP", "2 min 3 s", "1,600"."""
    if axis == "seconds":
        return duration(value)
    if axis == "steps":
        return f"{value:,.0f}"
    return si(value, AXES[axis].unit if axis in AXES else "")


def duration(seconds: float) -> str:
    """A time span: "2 h 5 min", "3 min 12 s", "4.1 s"."""
    if not seconds >= 60 or math.isinf(seconds):
        return f"{digits(seconds, 2)} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def moment(stamp: str) -> str:
    """An ISO 8601 time as "2026-01-31 12:00 UTC"; anything else as it is."""
    try:
        time = datetime.fromisoformat(stamp)
    except ValueError:
        return clean(stamp)
    return time.strftime("%Y-%m-%d %H:%M") + (f" {time.tzname()}" if time.tzinfo else "")


def signed(value: float) -> str:
    """A difference with a true minus sign: "+0.1234"."""
    return f"{value:+.4f}".replace("-", MINUS)


def probability(p: float | None) -> str:
    """A p-value; blank when there is none."""
    if p is None:
        return ""
    return "<0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def flatten(tree: Any, prefix: tuple[str, ...] = ()) -> list[tuple[str, str]]:
    """Nested JSON as (key path, text) pairs, for definition lists; amounts on known axes get their unit."""
    if isinstance(tree, list) and any(isinstance(item, dict | list) for item in tree):
        tree = {str(index): item for index, item in enumerate(tree, 1)}
    if isinstance(tree, dict):
        return [pair for key, value in tree.items() for pair in flatten(value, (*prefix, str(key)))]
    words = [clean(key.replace("_", " ") if key.islower() else key) for key in prefix]
    axis = prefix[-1] if prefix else ""
    number = isinstance(tree, int | float) and not isinstance(tree, bool)
    return [(" \N{MIDDLE DOT} ".join(words), amount(axis, tree) if number and axis in AXES else _scalar(tree))]


def _scalar(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(_scalar(item) for item in value)
    return "none" if value is None else clean(value)

"""Cells of a table: when a text is a number, what a value is as a number, and as a text to compare."""

from __future__ import annotations

import decimal
import numbers
import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import DataError

Column = npt.NDArray[Any]

_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_WORDS = ("nan", "inf", "infinity")  # how languages write what is no finite number
_EXACT = 2**53  # beyond it not every integer is a float64


def as_column(values: Any, name: str = "") -> Column:
    """Values as a 1-D array that loses nothing: integers too large for int64 stay Python's, masked entries are NaN.

    Raises:
        DataError: values that are not one-dimensional.
    """
    if isinstance(values, np.ma.MaskedArray):
        kept = np.array(values.data, dtype=float if values.dtype.kind in "iuf" else object)
        kept[np.ma.getmaskarray(values)] = np.nan
        values = kept
    try:
        array = np.asarray(values)
    except ValueError as error:  # lists of different lengths
        raise DataError(f"column {name} is no array ({error})", where="table") from error
    if array.dtype.kind == "f" and isinstance(values, list | tuple) and any(_is_long(value) for value in values):
        array = np.asarray(values, dtype=object)
    if array.ndim != 1:
        raise DataError(f"column {name} has shape {array.shape}, wanted one dimension", where="table")
    return array


def texts(entries: Iterable[str]) -> Column:
    """Texts as an array of objects, (rows,)."""
    return np.asarray([*entries, ""], dtype=object)[:-1]


def as_text(entry: Any) -> str:
    """What Python prints; "" for None and for whatever does not equal itself (NaN, NaT)."""
    try:
        missing = entry is None or bool(entry != entry)
    except TypeError:  # the missing value of dataframes: comparing it gives neither true nor false
        missing = True
    return "" if missing else str(entry).strip()


def as_float(entry: Any) -> float | None:
    """The float64 nearest to a number, or to the number that a text is; NaN for a missing one, None for none."""
    if isinstance(entry, str):
        text = entry.strip()
        return np.nan if not text else float(text) if _is_number(text) else None
    if entry is None:
        return np.nan
    if isinstance(entry, bool | np.bool_) or not isinstance(entry, numbers.Real | decimal.Decimal):
        return None
    try:
        return float(entry)
    except OverflowError:
        return -np.inf if str(entry).startswith("-") else np.inf


def number(text: str) -> float | int | None:
    """The number that prints back as ``text``: an int where a float64 would round it; None if there is none.

    ``0.10`` and ``1e3`` are numbers. ``007``, ``+7``, ``1_1``, ``4000e901`` (infinite) and ``1e-999`` (0) are names.
    """
    if not _NUMBER.fullmatch(text):
        return float(text) if _is_number(text) else None
    value, digits = float(text), text.lstrip("+-")
    vanished = value == 0.0 and re.search("[1-9]", re.split("[eE]", digits)[0])
    padded = digits[0] == "0" and digits[1:2].isdigit()
    if vanished or padded or not np.isfinite(value) or (text[0] == "+" and digits.isdigit()):
        return None
    whole = re.fullmatch(r"(-?[0-9]+)(?:\.0*)?", text)
    exact = int(whole[1]) if whole else None
    return value if exact is None or int(value) == exact else exact


def parse(entries: Column) -> Column:
    """Texts (rows,) as float64 if all are numbers, as objects if float64 would round one, else as they are."""
    values = [number(entry.strip()) if entry.strip() else np.nan for entry in entries]
    if any(value is None for value in values):
        return entries
    return np.asarray(values, dtype=object if any(isinstance(value, int) for value in values) else float)


def _is_number(text: str) -> bool:
    return bool(_NUMBER.fullmatch(text)) or text.lower().lstrip("+-") in _WORDS


def _is_long(value: Any) -> bool:
    return isinstance(value, int) and abs(value) > _EXACT

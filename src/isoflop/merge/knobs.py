"""Knobs that vary over layers and tensors: a number, a gradient over the layers, or a list of filters with values.

A gradient is piecewise linear in the layer's place from 0 (first) to 1 (last); tensors outside the layers take its
first value. A filter matches the names that contain it; the first that matches counts, one without ``filter`` always.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

Scalar = bool | int | float | str


def value_at(knob: Any, name: str, place: float) -> Scalar | None:
    """The knob's value for a tensor; None where no filter matches.

    Args:
        knob: a legal knob (``problems_of`` finds none).
        name: of the tensor.
        place: of its layer, in [0, 1].
    """
    if isinstance(knob, Mapping):
        knob = [knob]
    if not isinstance(knob, list | tuple):
        return knob  # type: ignore[no-any-return]
    if knob and isinstance(knob[0], Mapping):
        for entry in knob:
            pattern = entry.get("filter")
            if pattern is None or pattern == "*" or pattern in name:
                return value_at(entry["value"], name, place)
        return None
    at = place * (len(knob) - 1)
    below = int(at)
    if isinstance(knob[below], bool | str):
        return knob[below]  # type: ignore[no-any-return]
    above = min(below + 1, len(knob) - 1)
    return float((1 - (at - below)) * knob[below] + (at - below) * knob[above])


def first_value(scopes: Iterable[Mapping[str, Any]], knob: str, name: str, place: float) -> Scalar | None:
    """The value of ``knob`` in the first scope that gives the tensor one; None if none does."""
    for scope in scopes:
        if knob in scope and (value := value_at(scope[knob], name, place)) is not None:
            return value
    return None


def problems_of(knob: Any) -> list[str]:
    """What is wrong with a knob's form; its values are judged by the method."""
    if isinstance(knob, Mapping):
        knob = [knob]
    if not isinstance(knob, list | tuple):
        if not isinstance(knob, Scalar):
            return [f"{knob!r} is neither a value, a list nor a filter"]
        finite = not isinstance(knob, float) or math.isfinite(knob)
        return [] if finite else [f"{knob!r} is no finite number"]
    if not knob:
        return ["an empty list has no value"]
    if all(isinstance(entry, Mapping) for entry in knob):
        return [problem for entry in knob for problem in _of_filter(entry)]
    if all(isinstance(entry, Scalar) for entry in knob):
        if odd := [problem for entry in knob for problem in problems_of(entry)]:
            return odd
        kinds = {isinstance(entry, bool | str) for entry in knob}
        return [] if len(kinds) == 1 else ["a gradient mixes numbers with other values"]
    return ["a list holds either values or tables with filter and value"]


def _of_filter(entry: Mapping[str, Any]) -> list[str]:
    extra = sorted(set(entry) - {"filter", "value"})
    problems = [f"a filter has no key {key!r} (legal: filter, value)" for key in extra]
    if not isinstance(entry.get("filter", ""), str | None):
        problems.append(f"filter {entry['filter']!r} is no text")
    if "value" not in entry:
        return [*problems, "a filter lacks its value"]
    value = entry["value"]
    if isinstance(value, Mapping) or (isinstance(value, list) and any(isinstance(v, Mapping) for v in value)):
        return [*problems, "a filter's value is a value or a gradient, not another filter"]
    return problems + problems_of(value)

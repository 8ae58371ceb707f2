"""How far something has come at a time: curves from (0, 0) to (1, 1), with their slopes and inverses.

Corruptions draw by them and decoders go along them: a(t) is the share of tokens that are there (or shown) by time t.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

CourseName = Literal["linear", "sine", "cosine", "square"]
"""Names of the curves."""


@dataclass(frozen=True)
class Course:
    """A curve a with a(0) = 0 and a(1) = 1 that only rises. ``course`` gives one by name.

    Its functions take and give numbers or numpy arrays.

    Args:
        name: of the curve.
        at: t -> a(t).
        slope: t -> a'(t).
        inverse: u -> the t with a(t) = u.

    Example:
        >>> square = course("square")
        >>> square.at(0.5), square.slope(0.5), square.inverse(0.25), square.rate(0.5)
        (0.25, 1.0, 0.5, 1.3333333333333333)
    """

    name: CourseName
    at: Callable[[Any], Any]
    slope: Callable[[Any], Any]
    inverse: Callable[[Any], Any]

    def rate(self, t: Any) -> Any:
        """a'(t) / (1 - a(t)), at which what is still missing comes; t < 1."""
        return self.slope(t) / (1 - self.at(t))


_QUARTER = np.pi / 2
_COURSES = {
    "linear": (lambda t: t * 1.0, lambda t: t * 0.0 + 1, lambda u: u * 1.0),
    "sine": (
        lambda t: np.sin(_QUARTER * t),
        lambda t: _QUARTER * np.cos(_QUARTER * t),
        lambda u: np.arcsin(u) / _QUARTER,
    ),
    "cosine": (
        lambda t: 1 - np.cos(_QUARTER * t),
        lambda t: _QUARTER * np.sin(_QUARTER * t),
        lambda u: np.arccos(1 - u) / _QUARTER,
    ),
    "square": (lambda t: t * t * 1.0, lambda t: 2.0 * t, lambda u: u**0.5),
}


def course(name: CourseName) -> Course:
    """The curve of a name: t, sin(pi t / 2), 1 - cos(pi t / 2) or t^2.

    Example:
        >>> round(float(course("sine").at(1 / 3)), 6)
        0.5
    """
    return Course(name, *_COURSES[name])

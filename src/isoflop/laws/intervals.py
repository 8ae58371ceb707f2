"""Intervals of parameters, each with a verdict: do the data identify it at all?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from .arguments import check_level
from .bootstrap import bootstrap
from .fit import Solved
from .formula import Parameter
from .profile import roots

_WIDE = 10.0  # an end further than this factor from the estimate leaves even its magnitude unknown
_RESAMPLED = 300  # refits: enough for a 95 % quantile that is only asked whether it lies beyond a factor 10


@dataclass(frozen=True)
class Interval:
    """A parameter's profile-likelihood interval in natural units; an open end is the parameter's bound.

    ``reason`` says why the data do not identify it; empty if they do.

    An interval alone says how wide; the verdict says whether the constant means anything: one whose interval reaches
    its bound, or a factor 10 from the estimate, must not be quoted.

    Example:
        >>> Interval(0.5, 0.4, 0.6).verdict
        'identified'
        >>> Interval(0.5, 0.0, 40.0, reason="flat").verdict
        'unidentified'
    """

    value: float
    low: float
    high: float
    reason: str = ""

    @property
    def identified(self) -> bool:
        return not self.reason

    @property
    def verdict(self) -> Literal["identified", "unidentified"]:
        return "identified" if self.identified else "unidentified"


def intervals(fit: Solved, level: float = 0.95) -> dict[str, Interval]:
    """Profile-likelihood interval and verdict by parameter, in the law's order; fixed parameters are left out.

    Ends are where the profiled deviance crosses its threshold, so they need not lie evenly about the value; they hold
    in tables far smaller than those for which standard errors would.

    Args:
        fit: the fit.
        level: level of the intervals, a share.

    Example, with ``sweep`` a table of N, D and loss:
        >>> from isoflop.laws import Chinchilla
        >>> alpha = intervals(Chinchilla().fit(sweep))["alpha"]
        >>> alpha.verdict, round(alpha.value, 3), round(alpha.low, 3), round(alpha.high, 3)
        ('identified', 0.348, 0.341, 0.354)
    """
    check_level(level)
    ends = roots(fit, level)
    degrees = fit.degrees_of_freedom
    kind = None if fit.rows >= 3 * len(fit.problem.free) or fit.law.likelihood else "residuals"
    drawn = bootstrap(fit, _RESAMPLED, kind=kind).intervals(level) if degrees >= 2 else {}
    out = {}
    for j, (low, high, low_open, high_open) in ends.items():
        q = fit.law.parameters[j]
        at, both = float(fit.theta[j]), np.asarray([low, high])
        natural = np.exp(both) if q.log else both
        value = float(np.exp(at)) if q.log else at
        reason = _reason(q, at, low, high, low_open, high_open, degrees, level)
        if not reason and q.log and q.name in drawn:
            reach = max(drawn[q.name][1] / value, value / max(drawn[q.name][0], 1e-300))
            if reach > _WIDE:
                reason = f"{100 * level:g} % of refits to resampled rows reach a factor {reach:.3g} from the estimate"
        out[q.name] = Interval(value, float(natural[0]), float(natural[1]), reason)
    return out


def _reason(
    q: Parameter, at: float, low: float, high: float, low_open: bool, high_open: bool, degrees: int, level: float
) -> str:
    percent = f"{100 * level:g} %"
    if degrees < 1:
        return "no residual is left to judge the noise by: any value within its bounds may be true"
    if low_open and high_open:
        return f"any value within its bounds fits the data equally well at {percent}"
    if high_open or low_open:
        side = "upward" if high_open else "downward"
        what = " down to no irreducible part at all" if low_open and q.kind == "floor" else ""
        return f"the objective is flat {side}{what}: every value there lies in the {percent} interval"
    if degrees < 2:
        return f"{degrees} residual degrees of freedom: its interval rests on an assumed noise"
    if q.log and max(high - at, at - low) > np.log(_WIDE) and q.kind != "floor":
        return f"its {percent} interval reaches a factor {np.exp(max(high - at, at - low)):.3g} from the estimate"
    if q.kind == "exponent" and not q.log and low <= max(0.0, q.low) < at:
        return f"its {percent} interval contains 0, no effect at all"
    return ""

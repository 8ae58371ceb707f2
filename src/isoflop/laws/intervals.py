"""Intervals of parameters, each with a verdict: do the data identify it at all?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .checks import check_level
from .law import Parameter
from .profile import roots

if TYPE_CHECKING:
    from .fit import Fit

_WIDE = 10.0  # an end further than this factor from the estimate leaves even its magnitude unknown

_RESAMPLED = 300


@dataclass(frozen=True)
class Interval:
    """A parameter's profile-likelihood interval in natural units; an open end is the parameter's bound.

    ``reason`` says why the data do not identify it; empty if they do.
    """

    value: float
    low: float
    high: float
    reason: str = ""

    @property
    def identified(self) -> bool:
        return not self.reason

    @property
    def verdict(self) -> str:
        return "identified" if self.identified else "unidentified"


def intervals(fit: Fit, level: float = 0.95) -> dict[str, Interval]:
    """Per fitted parameter, in the law's order; fixed parameters are left out."""
    check_level(level)
    found = roots(fit, level)
    spare = fit.spare
    kind = None if fit.rows >= 3 * len(fit.problem.free) or fit.law.likelihood else "residuals"
    drawn = fit.bootstrap(_RESAMPLED, kind=kind).intervals(level) if spare >= 2 else {}
    out = {}
    for j, (low, high, low_open, high_open) in found.items():
        q = fit.law.parameters[j]
        at, ends = float(fit.theta[j]), np.asarray([low, high])
        natural = np.exp(ends) if q.log else ends
        value = float(np.exp(at)) if q.log else at
        reason = _reason(q, at, low, high, low_open, high_open, spare, level)
        if not reason and q.log and q.name in drawn:
            reach = max(drawn[q.name][1] / value, value / max(drawn[q.name][0], 1e-300))
            if reach > _WIDE:
                reason = f"{100 * level:g} % of refits to resampled rows reach a factor {reach:.3g} from the estimate"
        out[q.name] = Interval(value, float(natural[0]), float(natural[1]), reason)
    return out


def _reason(
    q: Parameter, at: float, low: float, high: float, low_open: bool, high_open: bool, spare: int, level: float
) -> str:
    percent = f"{100 * level:g} %"
    if spare < 1:
        return "no residual is left to judge the noise by: any value within its bounds may be true"
    if low_open and high_open:
        return f"any value within its bounds fits the data equally well at {percent}"
    if high_open or low_open:
        side = "upward" if high_open else "downward"
        what = " down to no irreducible part at all" if low_open and q.kind == "floor" else ""
        return f"the objective is flat {side}{what}: every value there lies in the {percent} interval"
    if spare < 2:
        return f"{spare} residual degrees of freedom: its interval rests on an assumed noise"
    if q.log and max(high - at, at - low) > np.log(_WIDE) and q.kind != "floor":
        return f"its {percent} interval reaches a factor {np.exp(max(high - at, at - low)):.3g} from the estimate"
    if q.kind == "exponent" and not q.log and low <= max(0.0, q.low) < at:
        return f"its {percent} interval contains 0, no effect at all"
    return ""

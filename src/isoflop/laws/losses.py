"""Losses of a residual r = prediction - observation, in the law's link space (log or natural).

Each loss offers what a damped Newton method needs, elementwise and for any shape: its value, its slope, its curvature
and a majorizer (a weight w(r) such that slope(r) = w(r) r and the parabola of curvature w lies above the loss).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from ..core.errors import UsageError, nearest
from .formula import Array

# (tau, kappa) of the stages before a sharp loss of a high quantile. At 0.9 a tenth of the rows lies above the curve,
# enough to pull it from any start; a corner of 1 / 10 is a tenth of the range of the scores that the loss is meant for.
# The second stage about halves both, as the step from it to the usual (0.98, 50) does.
_SOFTER = ((0.9, 10.0), (0.95, 25.0))


class ResidualLoss(Protocol):
    def value(self, r: Array) -> Array: ...
    def slope(self, r: Array) -> Array: ...
    def curvature(self, r: Array) -> Array: ...
    def majorizer(self, r: Array) -> Array: ...
    @property
    def quantile(self) -> float | None:
        """Of a quantile loss: which; else None."""
        ...

    def path(self, scale: float) -> list[ResidualLoss]:
        """Losses from a smooth one, fit for residuals of size ``scale``, to this one: what continuation walks along."""
        ...


@dataclass(frozen=True)
class Huber:
    """Huber's loss: r^2 / 2 within ``delta``, delta (|r| - delta / 2) outside; ``over`` and ``under`` weigh its sides.

    ``over`` is the weight of predictions above the observation. ``unit`` divides everything: with unit = delta -> 0
    it is |r|, or with over = 1 - tau and under = tau the quantile ("pinball") loss.

    The default loss of a law: outliers pull with a bounded force, and within ``delta`` it is least squares. ``delta``
    is in link space, so 1e-3 is a thousandth of the loss where the link is log.

    Args:
        delta: the corner, > 0, in the residual's unit.
        over: weight of residuals > 0, predictions above the observation.
        under: weight of residuals < 0.
        unit: what everything is divided by.

    Example:
        >>> Huber(1.0).value(np.asarray([-3.0, 0.5])).tolist()
        [2.5, 0.125]
    """

    delta: float
    over: float = 1.0
    under: float = 1.0
    unit: float = 1.0

    def value(self, r: Array) -> Array:
        a = np.abs(r)
        m = np.minimum(a, self.delta)
        return self._sided(r, m * (a - 0.5 * m))

    def slope(self, r: Array) -> Array:
        return self._sided(r, np.clip(r, -self.delta, self.delta))

    def curvature(self, r: Array) -> Array:
        return self._sided(r, (np.abs(r) <= self.delta).astype(float))

    def majorizer(self, r: Array) -> Array:
        return self._sided(r, self.delta / np.maximum(np.abs(r), self.delta))

    @property
    def quantile(self) -> float | None:
        return self.under if self.unit != 1.0 and self.over != self.under else None

    def path(self, scale: float) -> list[ResidualLoss]:
        stages: list[ResidualLoss] = []
        delta = 2.0 * scale  # most residuals lie within: a least-squares fit
        while delta > 3.0 * self.delta and np.isfinite(delta):
            stages.append(replace(self, delta=delta, unit=self.unit * delta / self.delta if self.unit != 1.0 else 1.0))
            # Newton follows a corner that sharpens fourfold. An exact corner (1e-7 of the scale) would take a
            # dozen such stages, so it is reached in larger ones.
            delta /= 4.0 if self.delta > 1e-3 * scale else 10.0
        return [*stages, self]

    def _sided(self, r: Array, v: Array) -> Array:
        if self.over == self.under == self.unit == 1.0:
            return v
        return v * np.where(r > 0, self.over / self.unit, self.under / self.unit)


@dataclass(frozen=True)
class Squared:
    """Least squares: r^2 / 2.

    The loss of normal noise; one bad run moves every constant.

    Example:
        >>> Squared().value(np.asarray([-3.0, 0.5])).tolist()
        [4.5, 0.125]
    """

    def value(self, r: Array) -> Array:
        return 0.5 * r * r

    def slope(self, r: Array) -> Array:
        return r

    def curvature(self, r: Array) -> Array:
        return np.ones_like(r)

    def majorizer(self, r: Array) -> Array:
        return np.ones_like(r)

    @property
    def quantile(self) -> float | None:
        return None

    def path(self, scale: float) -> list[ResidualLoss]:
        return [self]


@dataclass(frozen=True)
class SoftPinball:
    """The quantile loss smoothed by a softplus: ln(1 + e^(kappa u)) / kappa + (tau - 1) u with u = -r.

    Its corner is about 1 / kappa wide, so on data quieter than that it covers more than ``tau``.

    ``Frontier`` is fitted with it, because its authors are; the exact corner is ``Huber`` with a small unit
    ("pinball").

    Args:
        tau: the quantile, between 0 and 1.
        kappa: sharpness, 1 / the residual's unit.

    Example:
        >>> SoftPinball(tau=0.9, kappa=50.0).slope(np.asarray([-1.0, 1.0])).round(3).tolist()
        [-0.9, 0.1]
    """

    tau: float
    kappa: float

    def value(self, r: Array) -> Array:
        return np.logaddexp(0.0, -self.kappa * r) / self.kappa + (1.0 - self.tau) * r

    def slope(self, r: Array) -> Array:
        return (1.0 - self.tau) - self._sigmoid(r)

    def curvature(self, r: Array) -> Array:
        s = self._sigmoid(r)
        return self.kappa * s * (1.0 - s)

    def majorizer(self, r: Array) -> Array:
        v = np.maximum(np.abs(self.kappa * r), 1e-6)  # tanh(v / 2) / v is 1/2 there to 1e-13, and 0 / 0 at 0
        return np.asarray(self.kappa * np.tanh(v / 2) / (2 * v))

    @property
    def quantile(self) -> float | None:
        return self.tau

    def path(self, scale: float) -> list[ResidualLoss]:
        softer = [replace(self, tau=t, kappa=k) for t, k in _SOFTER if t < self.tau and k < self.kappa]
        return [*softer, self]

    def _sigmoid(self, r: Array) -> Array:
        return 0.5 * (1.0 - np.tanh(0.5 * self.kappa * r))


NAMES = ("huber", "l2", "l1", "pinball", "soft_pinball", "asymmetric")


def loss_named(name: str, *, delta: float, tau: float, kappa: float, penalty: float, scale: float) -> ResidualLoss:
    """The loss of that name; ``scale`` is the size of the target in link space, to which exact corners are rounded.

    Args:
        name: huber, l2, l1, pinball, soft_pinball or asymmetric.
        delta: Huber's corner, in link space.
        tau: quantile of the pinball losses.
        kappa: sharpness of soft_pinball.
        penalty: weight of predictions above the observation, of asymmetric.
        scale: size of the target in link space.

    Raises:
        UsageError: an unknown name, or a number outside its range.

    Example:
        >>> loss_named("l2", delta=1e-3, tau=0.5, kappa=50.0, penalty=10.0, scale=1.0)
        Squared()
    """
    if not (delta > 0 and 0 < tau < 1 and kappa > 0 and penalty > 0):
        raise UsageError(
            "a loss has an illegal number",
            where="loss",
            fix="delta, kappa and penalty > 0, tau strictly between 0 and 1",
        )
    sharp = 1e-7 * scale  # rounds a corner far below any residual, far above float64's 1e-16 of the scale
    table: dict[str, ResidualLoss] = {
        "huber": Huber(delta),
        "l2": Squared(),
        "l1": Huber(sharp, unit=sharp),
        "pinball": Huber(sharp, over=1.0 - tau, under=tau, unit=sharp),
        "soft_pinball": SoftPinball(tau, kappa),
        "asymmetric": Huber(delta, over=penalty),
    }
    if name not in table:
        raise UsageError(f"no loss is named {name!r}", where="loss", fix=nearest(name, NAMES))
    return table[name]

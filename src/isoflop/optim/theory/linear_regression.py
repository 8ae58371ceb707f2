"""Exact expected risk of SGD on Gaussian linear regression, for the last iterate and for any average of iterates.

x ~ N(0, diag(spectrum)), y = <w*, x> + N(0, noise), w <- w - rate mean_batch (<w, x> - y) x. With e = w - w*,
    E e_i^2 <- (1 - r l_i)^2 E e_i^2 + r^2 / B (l_i^2 E e_i^2 + l_i sum_j l_j E e_j^2 + noise l_i),
    E e_t e_s = prod (1 - r l) E e_s^2 for s < t,
so that E of the square of any weighted sum of iterates follows in one pass (Jain et al. 2018, arXiv 1610.03774).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class LinearRegression:
    """``spectrum`` (n,): eigenvalues of E x x'. ``offset`` (n,): w_0 - w*. ``noise``: variance of y given x."""

    spectrum: Array
    offset: Array
    noise: float

    @classmethod
    def power_law(cls, n: int, capacity: float, source: float, noise: float) -> LinearRegression:
        """l_i ~ i^-capacity with trace 1, l_i offset_i^2 ~ i^-source with sum 1: the risk begins at 1/2."""
        index = np.arange(1, n + 1, dtype=np.float64)
        spectrum = index**-capacity / (index**-capacity).sum()
        signal = index**-source / (index**-source).sum()
        return cls(spectrum, np.sqrt(signal / spectrum), noise)

    def risk(self, squares: Array) -> Array:
        """Excess risk 1/2 sum_i l_i E e_i^2 of squares (..., n)."""
        return np.asarray(0.5 * squares @ self.spectrum)

    def squares(self, rates: Sequence[float], batch: int) -> Array:
        """(T + 1, n): E e_i^2 of the iterates 0 .. T of T = len(rates) steps."""
        current = self.offset**2
        path = [current]
        for rate in rates:
            spread = self.spectrum * (self.spectrum * current + self.spectrum @ current + self.noise)
            current = (1 - rate * self.spectrum) ** 2 * current + rate**2 / batch * spread
            path.append(current)
        return np.array(path)

    def risk_of_average(self, rates: Sequence[float], batch: int, weights: Array) -> float:
        """Exact excess risk of sum_t weights[t] w_t over the iterates 0 .. T; ``weights`` (T + 1,) sums to 1."""
        if len(weights) != len(rates) + 1:
            raise ValueError(f"{len(rates)} steps make {len(rates) + 1} iterates, got {len(weights)} weights")
        squares = self.squares(rates, batch)
        cross = weights[0] * squares[0]  # E of (sum so far) times the present iterate
        total = weights[0] ** 2 * squares[0]
        for rate, weight, now in zip(rates, weights[1:], squares[1:], strict=True):
            carried = (1 - rate * self.spectrum) * cross
            total = total + 2 * weight * carried + weight**2 * now
            cross = carried + weight * now
        return float(self.risk(total))


def tail_weights(steps: int, fraction: float) -> Array:
    """Equal weights on the last round(fraction (steps + 1)) of the iterates 0 .. steps; 1: on all."""
    count = max(round(fraction * (steps + 1)), 1)
    return np.concatenate([np.zeros(steps + 1 - count), np.full(count, 1 / count)])


def exponential_weights(steps: int, decay: float) -> Array:
    """Bias-corrected exponential average over the iterates 1 .. steps."""
    weights = np.concatenate([[0.0], (1 - decay) * decay ** np.arange(steps - 1, -1, -1, dtype=np.float64)])
    return weights / (1 - decay**steps)

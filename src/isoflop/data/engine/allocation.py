"""Clusters of documents and how many to take of each (Abbas et al. 2024, arXiv 2401.04578).

The paper's quadratic program, min |x - p N|^2 / 2 with sum x = N and bounds on x, needs no solver: its solution is
x_j = clip(p_j N + mu, low_j, high_j) with the one mu by which they sum to N.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ...core.errors import DataError
from ...core.rng import Rng

Array = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]
NEIGHBOURS = 20
"""Nearest centroids over which a cluster's distance from others is taken."""


def waterfill(wanted: Array, total: float, low: Array, high: Array) -> Array:
    """The x nearest to ``wanted`` with low <= x <= high and sum x = total.

    Args:
        wanted: (n,) what each would get.
        total: what they get together.
        low: (n,) the least each gets.
        high: (n,) the most.

    Raises:
        DataError: the bounds leave no such x.
    """
    if not low.sum() <= total <= high.sum() or (low > high).any():
        raise DataError(f"{total:,.0f} lies not between {low.sum():,.0f} and {high.sum():,.0f}", where="allocation")
    # sum clip(wanted + mu) is piecewise linear and rises with mu: find the piece, then its mu exactly.
    corners = np.unique(np.concatenate([low - wanted, high - wanted]))
    first, last = 0, len(corners) - 1
    while first < last:
        middle = (first + last) // 2
        if np.clip(wanted + corners[middle], low, high).sum() >= total:
            last = middle
        else:
            first = middle + 1
    mu = corners[first]
    excess = np.clip(wanted + mu, low, high).sum() - total
    slope = int(((low - wanted < mu) & (high - wanted >= mu)).sum())  # of the piece that ends at this corner
    return np.asarray(np.clip(wanted + mu - excess / max(slope, 1), low, high))


def whole(x: Array, high: Array) -> Array:
    """``x`` in whole numbers with the sum that is nearest to its own: the largest remainders are rounded up.

    Args:
        x: (n,) what each gets.
        high: (n,) whole numbers that none exceeds.
    """
    found = np.floor(x + 1e-9)
    left = round(float(x.sum())) - int(found.sum())
    for place in np.argsort(found - x, kind="stable").tolist():
        if left > 0 and found[place] < high[place]:
            found[place] += 1
            left -= 1
    return found


def shares(inter: Array, intra: Array, tau: float) -> Array:
    """softmax(d_inter d_intra / tau) over clusters, (k,): the complex ones, far from others and wide, get more.

    Args:
        inter: (k,) mean distance to the nearest other centroids; NaN counts as the mean.
        intra: (k,) mean distance of members to their centroid; likewise.
        tau: temperature.
    """
    complexity = inter * intra
    complexity = np.where(np.isnan(complexity), np.nanmean(complexity), complexity) / tau
    raised = np.exp(complexity - complexity.max())
    return np.asarray(raised / raised.sum())


@dataclass(frozen=True)
class Clusters:
    """Spherical k-means: unit vectors by their nearest centroid in angle.

    Args:
        centroids: (k, d) of unit length.

    Example:
        >>> vectors = np.repeat(np.eye(3), 4, axis=0)
        >>> sorted(np.bincount(Clusters.fit(vectors, 3, Rng(0)).labels(vectors)).tolist())
        [4, 4, 4]
    """

    centroids: Array

    @classmethod
    def fit(cls, vectors: Array, k: int, rng: Rng, rounds: int = 30) -> Clusters:
        """Lloyd's rounds from k-means++ starts on the unit sphere.

        Args:
            vectors: (n, d) of unit length; k falls to n.
            k: clusters.
            rng: of the starts.
            rounds: at most.
        """
        draw, k = rng("clusters").at(), min(k, len(vectors))
        chosen = [int(draw.integers(len(vectors)))]
        gap = 1 - vectors @ vectors[chosen[0]]
        for _ in range(k - 1):
            weight = np.maximum(gap, 0) ** 2
            total = weight.sum()
            odds = weight / total if total > 0 else np.full(len(vectors), 1 / len(vectors))
            chosen.append(int(draw.choice(len(vectors), p=odds)))
            gap = np.minimum(gap, 1 - vectors @ vectors[chosen[-1]])
        centroids, labels = vectors[chosen].copy(), np.full(len(vectors), -1)
        for _ in range(rounds):
            new = (vectors @ centroids.T).argmax(1)
            if (new == labels).all():
                break
            labels = new
            sums = np.zeros_like(centroids)
            np.add.at(sums, labels, vectors)
            length = np.linalg.norm(sums, axis=1, keepdims=True)
            centroids = np.where(length > 0, sums / np.maximum(length, 1e-12), centroids)
        return cls(centroids)

    def labels(self, vectors: Array) -> Labels:
        """int64 (n,): the nearest centroid of each."""
        return np.asarray((vectors @ self.centroids.T).argmax(1))

    def distances(self, vectors: Array, labels: Labels) -> Array:
        """(n,) 1 - cosine to each one's centroid."""
        return np.asarray(1 - (vectors * self.centroids[labels]).sum(1))

    def spread(self) -> Array:
        """(k,) mean of 1 - cosine to the nearest other centroids; NaN of a single cluster."""
        k = len(self.centroids)
        if k < 2:
            return np.full(k, np.nan)
        gaps = 1 - self.centroids @ self.centroids.T
        np.fill_diagonal(gaps, np.inf)
        return np.asarray(np.sort(gaps, axis=1)[:, : min(NEIGHBOURS, k - 1)].mean(1))

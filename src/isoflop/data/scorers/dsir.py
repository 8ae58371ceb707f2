"""Data selection by importance resampling (Xie et al. 2023): likeness to a target by hashed words and pairs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field, PositiveInt

from ...core.contracts import ScorerPart
from ...core.cost import Cost
from ...core.errors import DataError
from ...core.registry import Card, part
from ..engine.features import bucket_counts, hashed, sums


class ImportanceWeights:
    """sum over a document's features of log p(target) - log p(pool).

    Args:
        logs: (buckets,) that difference.
        mean: take the mean over features instead.

    Example:
        >>> scorer = DsirPart(buckets=64).build({"target": ["red fox"], "pool": ["red fox", "blue sea"]}, {})
        >>> scores = scorer.score([("a", "red fox"), ("b", "blue sea")]).tolist()
        >>> scores[0] > scores[1]
        True
    """

    def __init__(self, logs: npt.NDArray[np.float64], mean: bool) -> None:
        self.logs, self.mean = logs, mean
        self._cost = Cost()

    @property
    def cost(self) -> Cost:
        return self._cost

    def score(self, documents: Sequence[tuple[str, str]]) -> npt.NDArray[np.float64]:
        buckets, bounds = hashed([text for _, text in documents], len(self.logs))
        self._cost += Cost(elementwise=len(buckets))
        found = sums(self.logs[buckets], bounds)
        return found / np.maximum(np.diff(bounds), 1) if self.mean else found


@part
class DsirPart(ScorerPart):
    """Log importance weight of a document under bags of hashed words and pairs, target against pool.

    Use it with ``isoflop data select --gumbel 1``, which draws in proportion to the weights as the paper does; without,
    the likeliest are taken.

    Example:
        >>> DsirPart.fits
        ('target',)
    """

    buckets: PositiveInt = 10_000
    """Features that words and pairs are hashed to."""
    smoothing: Annotated[float, Field(gt=0)] = 1e-8
    """Added to each bucket's share."""
    mean: bool = False
    """The mean over features: the sum prefers long documents where the target is like the pool."""
    fits: ClassVar[tuple[str, ...]] = ("target",)
    card = Card(
        summary="Log importance weight under bags of hashed words and pairs, target against pool.",
        paper="Xie et al. 2023, arXiv 2302.03169",
        equation="score = sum_g log p_target(g) - log p_pool(g)",
        differs="words are runs of letters and digits, hashed by our own hash",
        cost="one pass over target and pool; no FLOPs of the matmul class",
    )

    def build(self, texts: Mapping[str, Iterable[str]], models: Mapping[str, Any]) -> ImportanceWeights:
        counts = [bucket_counts(texts[name], self.buckets) for name in ("target", "pool")]
        if not counts[0].sum():
            raise DataError("holds no words", where="target", fix="name documents like those that are wanted")
        share = [count / max(count.sum(), 1) + self.smoothing for count in counts]
        return ImportanceWeights(np.log(share[0]) - np.log(share[1]), self.mean)

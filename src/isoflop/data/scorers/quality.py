"""A quality classifier by the recipe of fastText: good documents against the pool, by hashed words and pairs."""

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
from ...core.rng import Rng
from ..engine.features import batches, hashed, sums

Array = npt.NDArray[np.float64]


class QualityClassifier:
    """P(good) of a document: the mean of its features' vectors, and a logistic unit.

    Args:
        table: (buckets, d) vectors of features.
        weights: (d,) of the unit.
        bias: of the unit.
        cost: what fitting cost.

    Example:
        >>> part = QualityPart(buckets=256, dim=4, epochs=20)
        >>> scorer = part.build({"good": ["red fox runs"] * 9, "pool": ["blue sea lies"] * 9}, {})
        >>> good, bad = scorer.score([("a", "red fox"), ("b", "blue sea")]).tolist()
        >>> good > bad
        True
    """

    def __init__(self, table: Array, weights: Array, bias: float, cost: Cost) -> None:
        self.table, self.weights, self.bias, self._cost = table, weights, bias, cost
        self._logits = table @ weights

    @property
    def cost(self) -> Cost:
        return self._cost

    def score(self, documents: Sequence[tuple[str, str]]) -> Array:
        buckets, bounds = hashed([text for _, text in documents], len(self.table))
        self._cost += Cost(elementwise=len(buckets))
        z = sums(self._logits[buckets], bounds) / np.maximum(np.diff(bounds), 1) + self.bias
        return np.asarray(1 / (1 + np.exp(-np.clip(z, -500, 500))))


@part
class QualityPart(ScorerPart):
    """P(good) by a linear classifier over hashed words and pairs: what DCLM chooses its documents by.

    Use it with a set of documents that are as the chosen ones should be (``good``); the others are the pool's, or
    those of ``bad``.

    Example:
        >>> QualityPart().buckets
        262144
    """

    buckets: PositiveInt = 1 << 18
    """Features that words and pairs are hashed to."""
    dim: PositiveInt = 16
    """Of a feature's vector (fastText: 100; for two classes one number a feature is as expressive)."""
    epochs: PositiveInt = 5
    """Passes over the examples."""
    lr: Annotated[float, Field(gt=0)] = 0.1
    """At the beginning; it falls linearly to 0."""
    examples: PositiveInt = 200_000
    """Of each class, at most: the first ones."""
    seed: int = 0
    """Of the vectors and of the examples' order."""
    fits: ClassVar[tuple[str, ...]] = ("good",)
    card = Card(
        summary="P(good) by a linear classifier over hashed words and pairs, trained by fastText's recipe.",
        paper="Joulin et al. 2017, arXiv 1607.01759; as a filter: Li et al. 2024, arXiv 2406.11794",
        equation="P(good | x) = sigmoid(w . mean_g v_g + b)",
        defaults="fastText and DCLM: dim 100, lr 0.1, 5 epochs, wordNgrams 2",
        differs="words are hashed as pairs are; one logistic unit instead of a softmax over two",
        cost="training: epochs x features x dim multiply-adds, thrice; scoring: a look-up a feature",
    )

    def build(self, texts: Mapping[str, Iterable[str]], models: Mapping[str, Any]) -> QualityClassifier:
        bad = texts.get("bad", texts["pool"])
        sides = [self._featured(side) for side in (texts["good"], bad)]
        if not all(sides):
            raise DataError("holds no documents", where="good" if not sides[0] else "pool", fix="name some")
        examples = [(row, 1.0) for row in sides[0]] + [(row, 0.0) for row in sides[1]]
        rng = Rng(self.seed)("quality")
        table = rng("vectors").at().uniform(-1 / self.dim, 1 / self.dim, (self.buckets, self.dim))
        weights, bias, work, done, whole = np.zeros(self.dim), 0.0, 0, 0, self.epochs * len(examples)
        for epoch in range(self.epochs):
            for place in rng("order").at(epoch).permutation(len(examples)).tolist():
                row, label = examples[place]
                rate = self.lr * (1 - done / whole)
                hidden = table[row].mean(0)
                gap = label - 1 / (1 + np.exp(-float(hidden @ weights) - bias))
                step = rate * gap / len(row) * weights
                weights = weights + rate * gap * hidden
                bias += rate * gap
                np.add.at(table, row, step)
                work += len(row)
                done += 1
        return QualityClassifier(table, weights, bias, Cost(elementwise=6 * work * self.dim))

    def _featured(self, texts: Iterable[str]) -> list[npt.NDArray[np.int64]]:
        found = list[npt.NDArray[np.int64]]()
        for batch in batches(texts):
            buckets, bounds = hashed(batch, self.buckets)
            found += [row for row in np.split(buckets, bounds[1:-1]) if len(row)]
            if len(found) >= self.examples:
                break
        return found[: self.examples]

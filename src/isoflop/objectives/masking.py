"""What is hidden of a text, and what each hidden token's loss weighs: the dialects of masked diffusion.

All estimate one bound. With L tokens that may be hidden, of which the set M is,

    -log p(x) <= sum over n = 1 .. L of (1 / n) E_{|M| = n}[ sum over M of CE ]
               = L E_{n uniform}[ (1 / n) sum over M of CE ]                            exactly n are hidden ("count")
               = E_{t uniform}[ (p'(t) / p(t)) sum over M of CE ]                       each with chance p(t)

for every course p from 0 to 1: with p = t the weight is 1 / p (Sahoo et al. 2024, arXiv 2406.07524; Ou et al. 2024,
arXiv 2406.03736); written by sigma(t) = -log(1 - p(t)) it is sigma' / (exp(sigma) - 1), the same number.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from ..core.contracts import Draws, TokenBatch
from ..core.courses import CourseName, course

Hidden = npt.NDArray[np.bool_]
Weights = npt.NDArray[np.float32]
Kind = Literal["bernoulli", "stratified", "count"]
Weighing = Literal["bound", "linear", "uniform"]
LATE = 1.05
"""The weight "linear" is this minus the hidden share, which is (T - t) / T at steps t of T = 20 (Ye et al. 2024)."""


def may_be_hidden(batch: TokenBatch) -> Hidden:
    """The targets that may be hidden, bool (batch, length): those that count."""
    if batch.mask is None:
        return np.ones(tuple(batch.targets.shape), np.bool_)
    counts: Hidden = batch.mask.cpu().numpy()
    return counts


@dataclass(frozen=True)
class Corruption:
    """How hidden tokens are drawn, and weighed.

    Args:
        kind: "bernoulli" hides each token with a chance p, drawn for each row; "stratified" the same, with the rows' p
            spread evenly; "count" hides exactly n tokens, n uniform from 1 to all.
        course: p(t) of uniform t, of the first two.
        weight: "bound" as above; "linear" and "uniform" are weights with which the loss is no bound.
        block: tokens of a block, each of which is corrupted by itself; None: all of a row is one.

    Example:
        >>> from isoflop.core.rng import Rng
        >>> hidden, weight = Corruption("count").draw(np.ones((2, 4), bool), Draws(Rng(0)))
        >>> hidden.sum(1).tolist(), weight.sum(1).tolist()  # 4 / n on each of n
        ([4, 3], [4.0, 4.0])
    """

    kind: Kind = "bernoulli"
    course: CourseName = "linear"
    weight: Weighing = "bound"
    block: int | None = None

    def draw(self, may: Hidden, draws: Draws, number: int = 0, parts: int = 1) -> tuple[Hidden, Weights]:
        """What is hidden, and the weight of each token's loss.

        Args:
            may: bool (batch, length), the tokens that may be hidden.
            draws: the batch's random numbers.
            number: of one of ``parts`` estimates of the same bound.
            parts: estimates, whose times lie in as many equal parts of (0, 1).

        Returns:
            bool and float32 (batch, length).
        """
        hidden, weight = np.zeros(may.shape, np.bool_), np.zeros(may.shape, np.float32)
        strata = self._strata(len(may), draws, parts)
        for row, (stratum, count) in enumerate(strata):
            draw = draws.at("mask" if parts == 1 else f"mask {number}", row)
            for place in self._blocks(may.shape[1]):
                u = (number + 1.0 - draw.random()) / parts  # in (0, 1], so that every weight is finite
                hidden[row, place], weight[row, place] = self._row(may[row, place], (stratum + u) / count, draw)
        return hidden, weight

    def _row(self, may: Hidden, u: float, draw: np.random.Generator) -> tuple[Hidden, Weights]:
        """One block's hidden tokens and weights, at time u in (0, 1]."""
        if self.kind == "count":
            size = int(may.sum())
            number = min(size, int(np.ceil(u * size)))
            hidden = np.zeros(len(may), np.bool_)
            hidden[draw.permutation(np.flatnonzero(may))[:number]] = True
            share, weight = (number / size, size / number) if size else (1.0, 0.0)
        else:
            curve = course(self.course)
            share = curve.at(u)
            weight = curve.slope(u) / share
            hidden = (draw.random(len(may)) < share) & may
        weight = {"bound": weight, "linear": LATE - share, "uniform": 1.0}[self.weight]
        return hidden, (hidden * weight).astype(np.float32)

    def _strata(self, rows: int, draws: Draws, parts: int) -> Iterator[tuple[int, int]]:
        """Which of how many equal parts of (0, 1) each row's time lies in; by chance, so that each row's is uniform."""
        if self.kind != "stratified" or parts > 1:
            return iter([(0, 1)] * rows)
        order = draws.root("strata")(str(draws.number)).at(draws.step).permutation(draws.first + rows)[draws.first :]
        return ((int(place), draws.first + rows) for place in order)

    def _blocks(self, length: int) -> list[slice]:
        size = self.block or length
        return [slice(first, first + size) for first in range(0, length, size)]


def given(hidden: Hidden, may: Hidden) -> Weights:
    """The weights of what a batch's source has hidden: of n out of L tokens L / n each; float32 (batch, length).

    Args:
        hidden: bool (batch, length).
        may: bool (batch, length), the tokens that may be hidden.
    """
    shown = np.maximum(hidden.sum(-1, keepdims=True), 1)
    weights: Weights = (hidden * may.sum(-1, keepdims=True) / shown).astype(np.float32)
    return weights

"""How much is chosen of scored documents, and by which rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ...core.errors import DataError, UsageError
from ...core.rng import Rng

Rule = Literal["global", "batched"]
Places = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Selection:
    """How many documents are kept, and which.

    Exactly one of ``tokens``, ``bytes``, ``documents`` and ``ratio`` says how many.

    Args:
        tokens: that training is to see, the end of each document and repeats included.
        bytes: of text that training is to see, repeats included.
        documents: that many different ones.
        ratio: the pool's bytes over the kept ones': tau.
        repeats: epochs over what is kept: of a budget in tokens or bytes so many times fewer different ones are taken.
        rule: the best of all; or of each batch of ``batch`` documents, drawn in an order by hash, its share.
        batch: documents of a batch.
        gumbel: times Gumbel noise, by document, added to scores: at 1 and log weights, a draw in proportion to them.
        lowest: take the lowest scores.
        key: a key of records, of whose values none fills more than ``most``; without it that holds for the groups that
            a scorer found (concept clusters).
        most: share of what is kept, in the budget's own unit.
        seed: of order and noise.

    Example:
        >>> Selection(ratio=4.0).budget(np.array([100, 300]))
        100.0
    """

    tokens: int | None = None
    bytes: int | None = None
    documents: int | None = None
    ratio: float | None = None
    repeats: int = 1
    rule: Rule = "global"
    batch: int = 1024
    gumbel: float = 0.0
    lowest: bool = False
    key: str | None = None
    most: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        given = [each for each in (self.tokens, self.bytes, self.documents) if each is not None]
        if len(given) + (self.ratio is not None) != 1:
            raise UsageError("give one of tokens, bytes, documents and ratio", where="select")
        if min(given, default=1) < 1:
            raise UsageError(f"keeps {given[0]:,}, and 1 is the least", where="select")
        if self.ratio is not None and not self.ratio >= 1:
            raise UsageError(f"ratio is {self.ratio:g}: the pool over what is kept, 1 or more", where="select")
        if min(self.repeats, self.batch) < 1 or not 0 < self.most <= 1 or not 0 <= self.gumbel < float("inf"):
            raise UsageError("repeats, batch, most or gumbel is out of range", where="select")
        if self.rule not in ("global", "batched"):
            raise UsageError(f"no rule is named {self.rule!r}", where="select", fix="take global or batched")

    @property
    def facts(self) -> dict[str, Any]:
        """It as JSON; ``tokens``, which came later, only where they are given."""
        return {key: value for key, value in asdict(self).items() if key != "tokens" or value is not None}

    @property
    def unit(self) -> str:
        """What the budget counts."""
        return "documents" if self.documents is not None else "tokens" if self.tokens is not None else "bytes"

    def budget(self, sizes: npt.NDArray[np.int64]) -> float:
        """What is kept at most, in the budget's unit, of documents of those sizes."""
        seen = self.bytes if self.tokens is None else self.tokens
        if seen is not None:
            return seen / self.repeats
        return float(self.documents) if self.documents is not None else float(sizes.sum()) / float(self.ratio or 1)

    def choose(
        self, scores: npt.NDArray[np.float64], sizes: npt.NDArray[np.int64], groups: Sequence[str] | None = None
    ) -> npt.NDArray[np.bool_]:
        """bool (n,): which documents are kept; of equal scores the earlier one.

        Args:
            scores: (n,).
            sizes: (n,) tokens where the budget is one of tokens, else bytes.
            groups: (n,) values of ``key``.

        Raises:
            DataError: the pool is smaller than the budget.
        """
        weights = np.ones(len(sizes)) if self.documents is not None else sizes.astype(np.float64)
        budget = self.budget(sizes)
        if budget > weights.sum() * (1 + 1e-12):
            what = f"holds {weights.sum():,.0f} {self.unit}, and {budget:,.0f} are to be kept"
            raise DataError(what, where="the pool", fix="lower the budget, or repeat: repeats=4")
        rng = Rng(self.seed)("select")
        value = -scores if self.lowest else scores
        if self.gumbel:
            value = value + self.gumbel * rng("gumbel").at().gumbel(size=len(value))
        order = np.argsort(-value, kind="stable")
        if self.rule == "batched":
            drawn = rng("order").at().permutation(len(value))
            batch = np.empty(len(value), np.int64)
            batch[drawn] = np.arange(len(value)) // self.batch
            order = self._shared(order, batch[order], weights, budget)
        kept, held, cap = np.zeros(len(value), np.bool_), 0.0, dict[str, float]()
        for place in order.tolist():
            weight = weights[place]
            if held + weight > budget * (1 + 1e-12):
                continue
            if groups is not None:
                filled = cap.get(groups[place], 0.0) + weight
                if filled > self.most * budget:
                    continue
                cap[groups[place]] = filled
            kept[place], held = True, held + weight
        return kept

    def _shared(self, order: Places, batch: Places, weights: npt.NDArray[np.float64], budget: float) -> Places:
        """Documents in the order in which each batch gives its best share; those beyond come after, if room is left."""
        share, rank = budget / weights.sum(), np.zeros(len(order))
        for number in range(int(batch.max(initial=-1)) + 1):
            mine = np.flatnonzero(batch == number)
            filled = np.cumsum(weights[order[mine]])
            rank[mine] = filled / max(filled[-1], 1e-300)
        return np.concatenate([order[rank <= share], order[rank > share]])

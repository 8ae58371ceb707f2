"""Who sees whom, as a value: a rule for pairs of positions, which states its pairs to the ledger.

A mixer is handed one of three things, or None, which is causal: a ``Pattern`` (a rule that every row of a batch obeys),
a ``Documents`` (a rule within the documents of each row), or a mask tensor (anything at all, for use where compute is
not compared).
"""

from __future__ import annotations

import functools
from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, Union

import numpy as np
import numpy.typing as npt

from ..registry import Part

if TYPE_CHECKING:
    from torch import Tensor

Bools: TypeAlias = npt.NDArray[np.bool_]
Positions: TypeAlias = npt.NDArray[np.int64]


class Pattern(Part):
    """Which keys a query sees in attention. A pure function, so the part is its own live object.

    A new pattern is one file with one method, ``sees``. Every query must see at least one key, itself for example.
    Write a pattern, and not a mask, wherever compute is compared: the ledger charges the pairs that it allows.

    Example:
        >>> Causal().dense(3).astype(int).tolist(), Causal().pairs(3)
        ([[1, 0, 0], [1, 1, 0], [1, 1, 1]], 6)
    """

    slot: ClassVar[str] = "pattern"

    @abstractmethod
    def sees(self, queries: Positions, keys: Positions) -> Bools:
        """Whether each query sees each key.

        Args:
            queries: int64 positions from 0.
            keys: int64 positions from 0, of a shape that broadcasts against that of ``queries``.

        Returns:
            bool, of the broadcast shape.
        """

    def dense(self, length: int) -> Bools:
        """The rule as a matrix: bool (length, length), row = query, column = key."""
        return self.rows(0, length, length)

    def rows(self, start: int, end: int, keys: int) -> Bools:
        """The rows ``start`` to ``end`` of the matrix over the first ``keys`` keys: bool (end - start, keys)."""
        seen = self.sees(np.arange(start, end)[:, None], np.arange(keys)[None, :])
        return np.broadcast_to(seen, (end - start, keys))

    def pairs(self, length: int) -> int:
        """Pairs (query, key) that it allows among ``length`` positions."""
        return _pairs(self, length)

    def places(self, length: int) -> Positions | None:
        """Where in the text each of ``length`` positions stands, int64; by default None: position i stands at i.

        A pattern over two copies of a text says so by this: what tells positions apart goes by places.
        """
        return None

    def build(self, ctx: Any = None) -> Pattern:
        return self


@functools.lru_cache(256)
def _pairs(pattern: Pattern, length: int) -> int:
    rows = 1024  # a block at a time: a long context's whole matrix would not fit in memory
    return sum(int(pattern.rows(i, min(i + rows, length), length).sum()) for i in range(0, length, rows))


class Both(Pattern):
    """What several patterns allow together, e.g. a window within the past. ``within`` makes it; no recipe names it.

    Example:
        >>> from isoflop.models.patterns.window import WindowPattern
        >>> within(WindowPattern(size=2), None).pairs(4)
        7
    """

    name: ClassVar[str] = "both"

    patterns: tuple[Any, ...]

    def sees(self, queries: Positions, keys: Positions) -> Bools:
        seen = [pattern.sees(queries, keys) for pattern in self.patterns]
        return np.asarray(functools.reduce(np.logical_and, seen))

    def places(self, length: int) -> Positions | None:
        found = (pattern.places(length) for pattern in self.patterns)
        return next((places for places in found if places is not None), None)


class Causal(Pattern):
    """Every position sees itself and those before it.

    Example:
        >>> Causal().pairs(4), Causal().dense(2).tolist()
        (10, [[True, False], [True, True]])
    """

    name: ClassVar[str] = "causal"

    def sees(self, queries: Positions, keys: Positions) -> Bools:
        return np.asarray(keys <= queries)

    def pairs(self, length: int) -> int:
        return length * (length + 1) // 2


@dataclass(frozen=True, eq=False)
class Documents:
    """A pattern within documents: positions of different documents do not see each other.

    Args:
        ids: int64 (batch, length): the number of each position's document.
        pattern: the rule within a document; None is causal.

    The ledger is charged the rule's pairs over the whole row: how long documents are is not known before the data is
    read, and a plan must be exact. What a kernel saves by skipping is in its seconds.

    Example:
        >>> import torch
        >>> apart = Documents(torch.tensor([[0, 0, 1]]))
        >>> apart.same[0].tolist()
        [[True, True, False], [True, True, False], [False, False, True]]
    """

    ids: Tensor
    pattern: Pattern | None = None

    @functools.cached_property
    def same(self) -> Tensor:
        """bool (batch, length, length): whether query and key belong to one document."""
        return self.ids[:, :, None] == self.ids[:, None, :]


Seen: TypeAlias = Union[Pattern, Documents, "Tensor", None]
"""What a mixer is handed. A tensor is bool, True where a query (row) may see a key: ((batch,) length, length)."""


def places_of(seen: Any, length: int) -> Positions | None:
    """Where each of ``length`` positions stands under what a mixer is handed; None: position i at i."""
    pattern = seen.pattern if isinstance(seen, Documents) else seen
    return pattern.places(length) if isinstance(pattern, Pattern) else None


def within(inner: Pattern | None, outer: Pattern | None) -> Pattern | None:
    """What both patterns allow; None stands for causal."""
    if inner is None or inner == outer:
        return outer
    return Both(patterns=(outer or Causal(), inner))

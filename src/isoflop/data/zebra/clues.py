"""Clues of Zebra puzzles, and all the grids that a set of clues allows.

A grid puts the values of each attribute into the houses, one into each: a permutation for each attribute. A clue speaks
of two values, or of a value and a house.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from ...core.contracts.pattern import Bools

Relation = Literal["=", "<", "/", "~", "@"]
"""Of two values: in one house, somewhere to the left, right to the left, next to each other; of one: in a house."""
RELATIONS: tuple[str, ...] = get_args(Relation)
Houses = tuple[int, ...]
"""The house of each value, attribute by attribute."""


@dataclass(frozen=True)
class Clue:
    """What is known of a value.

    Args:
        value: number among all values; those of one attribute are side by side.
        relation: how it is to the other.
        other: another value, or a house (from 0) where the relation is "@".

    Example:
        >>> Clue(0, "<", 3).holds((1, 0, 0, 2)), Clue(0, "@", 1).holds((1, 0, 0, 2))
        (True, True)
    """

    value: int
    relation: str
    other: int

    def holds(self, houses: Houses) -> bool:
        """Whether it is true of a grid."""
        here = houses[self.value]
        there = self.other if self.relation == "@" else houses[self.other]
        return bool(_meets(self.relation, np.asarray(here), np.asarray(there)))


def _meets(relation: str, here: npt.NDArray[np.int64], there: npt.NDArray[np.int64]) -> Bools:
    if relation in "=@":
        return np.asarray(here == there)
    if relation == "<":
        return np.asarray(here < there)
    return np.asarray(there - here == 1) if relation == "/" else np.asarray(np.abs(there - here) == 1)


def true_clues(houses: Houses, size: int) -> list[Clue]:
    """All clues that a grid of ``size`` houses makes true, but for those that say no more of values of one attribute.

    Example:
        >>> [clue.relation for clue in true_clues((0, 1), 2)]
        ['@', '@', '<', '/', '~']
    """
    found = [Clue(value, "@", house) for value, house in enumerate(houses)]
    for (a, here), (b, there) in itertools.combinations(enumerate(houses), 2):
        (a, here), (b, there) = sorted(((a, here), (b, there)), key=lambda pair: pair[1])
        found += [Clue(a, "=", b)] if here == there else [Clue(a, "<", b)]
        if there - here == 1:
            found += [Clue(a, "/", b), Clue(a, "~", b)]
    return found


@dataclass(frozen=True)
class ZebraGrids:
    """What a search found.

    Args:
        grids: at most as many as were asked for.
        nodes: places at which it had to guess.

    Example:
        >>> search([Clue(0, "@", 1)], size=2, attributes=1, limit=2)
        ZebraGrids(grids=((1, 0),), nodes=0)
    """

    grids: tuple[Houses, ...]
    nodes: int


def search(clues: Sequence[Clue], *, size: int, attributes: int, limit: int) -> ZebraGrids:
    """Grids that satisfy all clues.

    Each attribute's permutations are cut down to those that go with some permutation of every other one, until nothing
    changes; where several are left, the attribute with the fewest is guessed.

    Args:
        clues: what is known.
        size: houses, and values of each attribute.
        attributes: their number.
        limit: grids after which it stops.
    """
    orders = _orders(size)
    domains = [np.ones(len(orders), bool) for _ in range(attributes)]
    together: dict[tuple[int, int], Bools] = {}
    for clue in clues:
        a, i = divmod(clue.value, size)
        if clue.relation == "@":
            domains[a] &= orders[:, i] == clue.other
            continue
        b, j = divmod(clue.other, size)
        if a == b:
            domains[a] &= _meets(clue.relation, orders[:, i], orders[:, j])
            continue
        seen = _meets(clue.relation, orders[:, i, None], orders[None, :, j])
        (a, b), seen = ((a, b), seen) if a < b else ((b, a), seen.T)
        together[a, b] = together[a, b] & seen if (a, b) in together else seen
    grids: list[Houses] = []
    nodes = _explore(domains, together, orders, grids, limit)
    return ZebraGrids(tuple(grids), nodes)


@functools.lru_cache(8)
def _orders(size: int) -> npt.NDArray[np.int64]:
    """The house of each value in every permutation: (size!, size)."""
    return np.array(list(itertools.permutations(range(size))), np.int64)


def _explore(
    domains: list[Bools],
    together: dict[tuple[int, int], Bools],
    orders: npt.NDArray[np.int64],
    grids: list[Houses],
    limit: int,
) -> int:
    """Add grids to the list; how often was guessed."""
    domains = _cut(domains, together)
    counts = [int(domain.sum()) for domain in domains]
    if not all(counts):
        return 0
    if max(counts) == 1:
        grids.append(tuple(int(house) for domain in domains for house in orders[domain][0]))
        return 0
    nodes, chosen = 1, min((count, place) for place, count in enumerate(counts) if count > 1)[1]
    for one in np.flatnonzero(domains[chosen]):
        if len(grids) >= limit:
            break
        alone = np.zeros_like(domains[chosen])
        alone[one] = True
        nodes += _explore([*domains[:chosen], alone, *domains[chosen + 1 :]], together, orders, grids, limit)
    return nodes


def _cut(domains: list[Bools], together: dict[tuple[int, int], Bools]) -> list[Bools]:
    """Without what goes with nothing in another attribute."""
    domains, changed = list(domains), True
    while changed:
        changed = False
        for (a, b), seen in together.items():
            for mine, theirs, table in ((a, b, seen), (b, a, seen.T)):
                left = domains[mine] & table[:, domains[theirs]].any(1)
                changed = changed or bool((left != domains[mine]).any())
                domains[mine] = left
    return domains


def follows(clues: Sequence[Clue], *, size: int, attributes: int) -> bool:
    """Whether a grid follows step by step, each step from one clue or from what is known of one attribute.

    A clue bounds the houses of its two values, a house that is taken is no other value's, and a value has the house
    that no other of its attribute can have. What does not follow so takes several clues at once, or a guess.

    Args:
        clues: what is known.
        size: houses, and values of each attribute.
        attributes: their number.

    Example:
        >>> follows([Clue(0, "<", 1)], size=2, attributes=1), follows([], size=2, attributes=1)
        (True, False)
    """
    everywhere = (1 << size) - 1
    may = [everywhere] * (size * attributes)  # houses of each value, as bits
    while True:
        before = list(may)
        for clue in clues:
            _bound(clue, may)
        for start in range(0, len(may), size):
            _apart(may, range(start, start + size), size)
        may = [houses & everywhere for houses in may]
        if may == before:
            return all(houses and houses & (houses - 1) == 0 for houses in may)


def _bound(clue: Clue, may: list[int]) -> None:
    a, b = clue.value, clue.other
    if clue.relation == "@":
        may[a] &= 1 << b
    elif clue.relation == "=":
        may[a] = may[b] = may[a] & may[b]
    elif clue.relation == "<":
        may[a] &= (1 << max(may[b].bit_length() - 1, 0)) - 1
        may[b] &= -((may[a] & -may[a]) << 1)
    elif clue.relation == "/":
        may[b] &= may[a] << 1
        may[a] &= may[b] >> 1
    else:
        may[a] &= may[b] << 1 | may[b] >> 1
        may[b] &= may[a] << 1 | may[a] >> 1


def _apart(may: list[int], values: range, size: int) -> None:
    """One house for each value of an attribute."""
    for value in values:
        if may[value] & (may[value] - 1) == 0:
            for other in values:
                may[other] &= ~may[value] if other != value else -1
    for house in range(size):
        here = [value for value in values if may[value] >> house & 1]
        if len(here) == 1:
            may[here[0]] = 1 << house

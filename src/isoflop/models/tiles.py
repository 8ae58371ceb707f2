"""Relaxed tiling: what earlier positions give to later ones, in blocks, where each position needs all before it.

Position i can be computed once every j < i has given it its share, and only then can i give its own. Pair by pair that
is N^2 / 2 small steps. Instead, once n positions are known, the last U of them give to the next U, with U the largest
power of two that divides n: block times block, so that a product or a Fourier transform can do it, and each pair once
(van der Hoeven 2002, "Relax, but don't be too lazy"; as tiles: Oncescu et al. 2024, arXiv 2410.12982).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple


class Tile(NamedTuple):
    """Every source gives to every target.

    Example:
        >>> tile_at(6, length=7)
        Tile(sources=slice(4, 6, None), targets=slice(6, 7, None))
    """

    sources: slice
    """Positions n - U to n - 1, which are known."""
    targets: slice
    """Positions n to n + U - 1, or as many of them as there are."""

    @property
    def place(self) -> int:
        """n: the first position that is not known when the tile is due."""
        return int(self.targets.start)

    @property
    def size(self) -> int:
        """U: how many sources there are."""
        return int(self.sources.stop - self.sources.start)


def tile_at(place: int, length: int | None = None) -> Tile:
    """The tile that is due once ``place`` positions are known.

    Args:
        place: n, at least 1.
        length: positions in all; None: there is no end.
    """
    size = place & -place
    stop = place + size if length is None else min(place + size, length)
    return Tile(slice(place - size, place), slice(place, stop))


def tiling(length: int, *, backwards: bool = False) -> Iterator[Tile]:
    """The tiles of ``length`` positions, each pair j < i in exactly one.

    Going forward, the tile with ``place`` n is due between positions n - 1 and n; all its sources are known then, and
    after it all that n needs has been given. Backwards it is due between n and n - 1: a gradient flows from its
    targets, which are done, to its sources, which are not.

    Args:
        length: positions.
        backwards: from the last tile to the first.

    Example:
        >>> [(tile.place, tile.size) for tile in tiling(7)]
        [(1, 1), (2, 2), (3, 1), (4, 4), (5, 1), (6, 2)]
    """
    places = range(1, length)
    return (tile_at(place, length) for place in (reversed(places) if backwards else places))


def open_tiles(known: int) -> list[Tile]:
    """Of the tiles due up to ``known``, those with targets from there on: what is to be done again to go on from there.

    One for each bit of ``known``; together their sources are all positions before it, each once.

    Example:
        >>> [(tile.sources.start, tile.targets.stop) for tile in open_tiles(6)]
        [(0, 8), (4, 8)]
    """
    found = []
    while known:
        found.append(tile_at(known))
        known &= known - 1
    return found[::-1]

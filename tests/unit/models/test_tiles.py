"""Relaxed tiling: each pair once, and always in time."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from isoflop.models.tiles import open_tiles, tile_at, tiling

LENGTHS = st.integers(0, 200)


@given(LENGTHS)
def test_each_pair_is_in_one_tile_and_in_time(length: int) -> None:
    given_to = np.zeros((length, length), int)  # target, source
    for n, tile in enumerate(tiling(length), 1):
        assert tile.place == n
        assert tile.sources.stop == n  # nothing is used before it is known
        assert tile.size == n & -n
        given_to[tile.targets, tile.sources] += 1
        assert (given_to[n, :n] == 1).all()  # all that the next position needs has been given
    assert (given_to == np.tri(length, k=-1)).all()


@given(LENGTHS)
def test_backwards_are_the_same_tiles_and_targets_are_done(length: int) -> None:
    assert list(tiling(length, backwards=True)) == list(tiling(length))[::-1]
    given_to = np.zeros((length, length), int)
    for n, tile in zip(range(length - 1, 0, -1), tiling(length, backwards=True), strict=True):
        assert tile.targets.start == n  # targets lie from n on, which is done; sources before it
        given_to[tile.targets, tile.sources] += 1
        assert (given_to[n:, n - 1] == 1).all()
    assert (given_to == np.tri(length, k=-1)).all()


@given(LENGTHS)
def test_open_tiles_are_those_that_reach_on(known: int) -> None:
    due = [tile_at(n) for n in range(1, known + 1)]
    assert open_tiles(known) == [tile for tile in due if tile.targets.stop > known]
    sources = [j for tile in open_tiles(known) for j in range(tile.sources.start, tile.sources.stop)]
    assert sources == list(range(known))

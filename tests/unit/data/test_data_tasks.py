"""Addition and brackets: their laws and their levels."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from isoflop.data.tasks.addition import AdditionPart, carries
from isoflop.data.tasks.brackets import BracketsPart


@given(a=st.integers(0, 10**6 - 1), b=st.integers(0, 10**6 - 1))
def test_carries_are_those_of_the_sum(a: int, b: int) -> None:
    """A carry out of digit i is there exactly if the last i + 1 digits sum to more than they can hold."""
    out = [(a % 10 ** (i + 1) + b % 10 ** (i + 1)) >= 10 ** (i + 1) for i in range(6)]
    made = [(a // 10**i % 10 + b // 10**i % 10) >= 10 for i in range(6)]
    longest = run = 0
    for i in range(6):
        run = 0 if not out[i] else 1 if made[i] else run + 1
        longest = max(longest, run)
    assert carries(str(a).zfill(6), str(b).zfill(6)) == longest


def test_the_hard_tail_is_rare_and_a_level_of_its_own() -> None:
    task = AdditionPart(digits=6)
    levels = Counter(task.draw(np.random.default_rng(i)).level for i in range(2000))
    assert 0 < levels["hard"] < 200
    with pytest.raises(ValueError, match="more than the 3 digits"):
        AdditionPart(digits=3, hard=4)


def test_reversed_numbers_are_reversed_everywhere() -> None:
    plain, turned = (
        AdditionPart(digits=3, reverse=reverse).draw(np.random.default_rng(5)) for reverse in (False, True)
    )
    a, b, c = plain.text.replace("=", "+").split("+")
    assert turned.text == f"{a[::-1]}+{b[::-1]}={c[::-1]}"


def test_words_of_one_length_are_equally_frequent() -> None:
    task = BracketsPart(kinds=1, pairs=(4, 4))
    counts = Counter(task.draw(np.random.default_rng(i)).text for i in range(2800))
    assert len(counts) == 14, "Catalan's number"
    assert stats.chisquare(list(counts.values())).pvalue > 1e-3


def test_lengths_are_equally_frequent_and_crossing_pairs_are_wrong() -> None:
    task = BracketsPart(kinds=2, pairs=(1, 5))
    puzzles = [task.draw(np.random.default_rng(i)) for i in range(1000)]
    counts = Counter(len(puzzle.text) for puzzle in puzzles)
    assert stats.chisquare([counts[2 * n] for n in range(1, 6)]).pvalue > 1e-3
    assert not any(task.right(puzzles[0], text) for text in ("([)]", "(", ")(", "{}"))

"""Addition, brackets and parity: their laws and their levels."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from isoflop.data.puzzles import puzzles
from isoflop.data.tasks.addition import AdditionPart, carries
from isoflop.data.tasks.brackets import BracketsPart
from isoflop.data.tasks.prefix_parity import PrefixParityPart


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


@pytest.mark.parametrize("layout", ["last", "running"])
def test_parity_is_that_of_the_ones(layout: str) -> None:
    task = PrefixParityPart(lengths=(1, 9), evaluate=(12,), layout=layout)  # type: ignore[arg-type]
    for i in range(60):
        puzzle = task.draw(np.random.default_rng(i))
        bits = puzzle.text[::2] if layout == "running" else puzzle.text.split("=")[0]
        sums = np.cumsum([int(bit) for bit in bits]) % 2
        assert puzzle.answers == tuple(map(str, sums if layout == "running" else sums[-1:]))
        assert task.length_of(puzzle) == len(bits)
        assert puzzle.level == (str(len(bits)) if puzzle.level != "taught" else "taught")
        wrong = puzzle.filled([str(1 - int(answer)) for answer in puzzle.answers])
        assert not task.right(puzzle, wrong)


def test_training_words_have_their_own_lengths_and_are_never_asked() -> None:
    task = PrefixParityPart(lengths=(1, 8), evaluate=(4, 16))
    sides = puzzles(task, examples=800, variants=1, heldout=8, levels=task.taught, seed=3)
    counts = Counter(task.length_of(puzzle) for puzzle in sides.train)
    assert set(counts) == set(range(1, 9))
    doublings = [sum(counts[n] for n in range(low, 2 * low)) for low in (1, 2, 4)]
    assert max(doublings) < 1.3 * min(doublings), "each doubling equally often"
    assert {level: [task.length_of(p) for p in own] for level, own in sides.heldout.items()} == {
        "4": [4] * 8,
        "16": [16] * 8,
    }
    assert not {p.text for own in sides.heldout.values() for p in own} & {p.text for p in sides.train}


@pytest.mark.parametrize(
    ("fields", "problem"),
    [({"lengths": (5, 4)}, "no range"), ({"evaluate": (8, 8)}, "must ascend"), ({"evaluate": ()}, "at least 1")],
)
def test_lengths_that_make_no_sense_are_refused(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        PrefixParityPart.model_validate(fields)

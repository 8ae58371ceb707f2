"""Streams of events: their law by definition, the oracle that knows it, and what may be asked for."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from isoflop.core.contracts import Puzzle
from isoflop.data.tasks.event_stream import EventStreamPart


def chance(task: EventStreamPart, text: str, half_life: float) -> float:
    """Of a whole stream, by the sum over its past as the card writes it."""
    found = 1.0
    for t, letter in enumerate(text):
        weights = {
            a: task.novelty + sum(2 ** (-(t - 1 - s) / half_life) for s in range(t) if text[s] == a)
            for a in task.symbols
        }
        found *= weights[letter] / sum(weights.values())
    return found


def mixed(task: EventStreamPart, text: str) -> float:
    return sum(chance(task, text, half) for half in task.half_lives) / len(task.half_lives)


@settings(max_examples=25)
@given(
    st.text("abc", min_size=5, max_size=5),
    st.integers(0, 4),
    st.lists(st.floats(0.5, 50), min_size=1, max_size=3, unique_by=lambda half: f"{half:g}"),
    st.floats(0.01, 2),
)
def test_the_oracles_bits_are_those_of_the_definition(
    text: str, shown: int, half_lives: list[float], novelty: float
) -> None:
    task = EventStreamPart(letters=3, events=5, shown=shown, half_lives=tuple(half_lives), novelty=novelty)
    puzzle = Puzzle(text, ((shown, 5),), task.levels[0])
    prefixes = sum(mixed(task, text[:shown] + "".join(rest)) for rest in itertools.product("abc", repeat=5 - shown))
    assert task.bits(puzzle) == pytest.approx(-math.log2(mixed(task, text) / prefixes))


def test_streams_come_as_often_as_the_law_says() -> None:
    """Chi-square of all streams of four events of two letters, each half-life by itself."""
    task = EventStreamPart(letters=2, events=4, half_lives=(1.0, 30.0), novelty=0.5)
    drawn = [task.draw(np.random.default_rng(i)) for i in range(3000)]
    for level, half in zip(task.levels, task.half_lives, strict=True):
        own = [puzzle.text for puzzle in drawn if puzzle.level == level]
        assert 1380 < len(own) < 1620
        streams = ["".join(each) for each in itertools.product("ab", repeat=4)]
        wanted = [len(own) * chance(task, each, half) for each in streams]
        assert sum(wanted) == pytest.approx(len(own))
        square = sum((own.count(each) - want) ** 2 / want for each, want in zip(streams, wanted, strict=True))
        assert square < 37.7, "15 degrees of freedom, one in a thousand"


def test_no_guess_is_better_than_the_oracle_on_average() -> None:
    """Nor than one that takes a wrong half-life, or a wrong weight of what is new."""
    task = EventStreamPart(letters=8, events=64)
    puzzles = [task.draw(np.random.default_rng(i)) for i in range(60)]
    own = sum(map(task.bits, puzzles))
    for wrong in ({"half_lives": (7.0,)}, {"half_lives": (69.0,)}, {"novelty": 0.5}, {"novelty": 0.002}):
        assert sum(map(task.model_copy(update=wrong).bits, puzzles)) > own
    assert own / (60 * 64) < 3, "less than of eight letters alike"


def test_the_oracle_goes_on_with_what_came_most() -> None:
    task = EventStreamPart(letters=3, events=7, shown=5, half_lives=(1.0,))
    assert task.solve(Puzzle("aaacc??", ((5, 7),), "half-life 1")) == "aaacccc"
    slow = task.model_copy(update={"half_lives": (100.0,)})
    assert slow.solve(Puzzle("aaacc??", ((5, 7),), "half-life 100")) == "aaaccaa"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"events": 8, "shown": 8}, "leaves none of the 8 events"),
        ({"half_lives": (7.0, 7.0)}, "are not apart"),
        ({"half_lives": ()}, "at least 1"),
        ({"letters": 53}, "less than or equal to 52"),
        ({"novelty": 0.0}, "greater than 0"),
    ],
)
def test_what_cannot_be_is_refused(fields: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        EventStreamPart.model_validate(fields)

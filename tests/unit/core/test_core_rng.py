"""Randomness by name and place: the same on every machine, never touched by what else is drawn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isoflop.core.rng import Rng

WORDS = st.integers(0, 2**64 - 1)
SMALL = st.integers(0, 5)


def first(rng: Rng, step: int = 0, sample: int = 0) -> int:
    return int(rng.at(step, sample).integers(0, 2**63))


def test_golden_values() -> None:
    """Every stored run depends on them."""
    assert first(Rng(0)) == GOLDEN["root"]
    assert first(Rng(7)("data"), 3, 5) == GOLDEN["data"]
    assert first(Rng(7)("data")("order"), 2**64 - 1, 2**64 - 1) == GOLDEN["order"]
    assert Rng(7)("data").at(3, 5).random(3).tolist() == GOLDEN["floats"]


GOLDEN = {
    "root": 327875671877803839,
    "data": 8841776831308309765,
    "order": 6346075809986166983,
    "floats": [0.9586273649136469, 0.5040891224808055, 0.9490512654630325],
}


def test_the_place_is_the_counter_of_philox() -> None:
    """Written out: the key is a digest of seed and names, the counter's high words are step and sample."""
    state = Rng(7)("data").at(3, 5).bit_generator.state["state"]
    assert state["counter"].tolist() == [0, 0, 5, 3]
    assert state["key"].tolist() == Rng(7)("data").at(9, 9).bit_generator.state["state"]["key"].tolist()
    assert state["key"].tolist() != Rng(7)("date").at(3, 5).bit_generator.state["state"]["key"].tolist()


def test_a_place_never_reaches_the_next() -> None:
    """2**64 blocks of four words lie between two samples; a million draws use a quarter of a million of them."""
    generator = Rng(1)("x").at(4, 2**64 - 1)
    generator.integers(0, 2**63, size=1_000_000)
    counter = generator.bit_generator.state["state"]["counter"].tolist()
    assert counter[1:] == [0, 2**64 - 1, 4]
    assert counter[0] < 2**19


@given(SMALL, st.lists(st.sampled_from("ab"), max_size=3), WORDS, WORDS, st.tuples(WORDS, WORDS))
def test_draws_depend_on_their_place_alone(
    seed: int, names: list[str], step: int, sample: int, other: tuple[int, int]
) -> None:
    rng = Rng(seed)
    for name in names:
        rng = rng(name)
    value = first(rng, step, sample)
    first(rng, *other)
    rng("child").at().random(10)
    assert first(rng, step, sample) == value
    assert (first(rng, *other) == value) == (other == (step, sample))


@given(a=st.tuples(SMALL, SMALL), b=st.tuples(SMALL, SMALL))
def test_steps_and_samples_are_not_exchangeable(a: tuple[int, int], b: tuple[int, int]) -> None:
    assert (first(Rng(3), *a) == first(Rng(3), *b)) == (a == b)


def test_streams_of_one_seed_and_seeds_of_one_stream_are_independent() -> None:
    rows = [Rng(seed)(name).at().standard_normal(4000) for seed in range(4) for name in ("data", "model", "masks")]
    correlation = np.corrcoef(rows) - np.eye(len(rows))
    assert np.abs(correlation).max() < 5 / np.sqrt(4000)


def test_neighbouring_places_are_independent() -> None:
    values = np.array([[Rng(0)("m").at(step, sample).random() for sample in range(40)] for step in range(40)])
    assert abs(values.mean() - 0.5) < 5 * np.sqrt(1 / 12 / 1600)
    assert abs(np.corrcoef(values[:, :-1].ravel(), values[:, 1:].ravel())[0, 1]) < 5 / 40
    assert abs(np.corrcoef(values[:-1].ravel(), values[1:].ravel())[0, 1]) < 5 / 40


def test_names_do_not_run_into_each_other() -> None:
    assert first(Rng(1)("a")("b")) != first(Rng(1)("ab"))
    assert first(Rng(1)("2")) != first(Rng(12))
    for name in ("", "/", "a/b"):
        with pytest.raises(ValueError, match="stream's name"):
            Rng(1)(name)


@pytest.mark.parametrize("place", [(-1, 0), (0, -1), (2**64, 0), (0, 2**64)])
def test_places_outside_are_refused(place: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"\[0, 2\*\*64\)"):
        Rng(0).at(*place)


def test_the_global_generator_is_left_alone() -> None:
    np.random.seed(0)  # noqa: NPY002
    before = np.random.get_state()[1].tolist()  # type: ignore[index, union-attr]  # noqa: NPY002
    Rng(0)("x").at(1).random(100)
    assert np.random.get_state()[1].tolist() == before  # type: ignore[index, union-attr]  # noqa: NPY002

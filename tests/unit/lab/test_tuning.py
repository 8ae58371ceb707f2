"""Tuning gives every arm the same trials, leaves no optimum at an edge, and never chooses what diverged."""

from __future__ import annotations

import math
from collections import Counter

import pytest

from isoflop.errors import NumericsError
from isoflop.lab.tuning import Search, Trial, around, tune


def bowl(optimum, diverges=lambda trial: False):
    """A measure with its optimum at ``optimum(trial)``, and the trials that it was asked for."""
    asked: list[Trial] = []

    def measure(trials):
        asked.extend(trials)
        return {t: None if diverges(t) else math.log(t.value / optimum(t)) ** 2 for t in trials}

    return measure, asked


def test_interior_optima_cost_the_grid_and_nothing_more(tiny):
    measure, asked = bowl(lambda t: 0.0045)
    tuned = tune(tiny, measure)
    assert Counter((t.arm, t.rung) for t in asked) == {("adamw", 0): 4, ("muon", 0): 4, ("adamw", 2): 4}
    assert [t.chosen for t in tuned.all] == [0.004, 0.004, 0.004]
    assert not any(t.edge for t in tuned.all)


@pytest.mark.parametrize(("optimum", "chosen"), [(0.03, 0.032), (0.0009, 0.001)])
def test_an_edge_optimum_adds_a_trial_to_every_arm(tiny, optimum, chosen):
    """An optimum at the edge is not accepted: the grid is widened there, the other arms are refined."""
    measure, asked = bowl(lambda t: optimum if t.arm == "muon" else 0.0055)
    tuned = tune(tiny, measure)
    trials = Counter((t.arm, t.rung) for t in asked)
    assert trials["adamw", 0] == trials["muon", 0] > 4
    assert tuned.low["muon"].chosen == chosen
    assert not tuned.low["muon"].edge
    assert tuned.low["adamw"].chosen == pytest.approx(math.sqrt(0.004 * 0.008), rel=1e-5)  # between best and next best


def test_an_edge_that_stays_is_flagged(tiny):
    measure, asked = bowl(lambda t: 10.0 if t.arm == "muon" else 0.005)
    tuned = tune(tiny, measure)
    assert tuned.low["muon"].edge
    assert not tuned.low["adamw"].edge
    assert len([t for t in asked if (t.arm, t.rung) == ("muon", 0)]) == 4 + tiny.tuning.extensions


def test_a_grid_is_not_widened_beyond_what_the_recipe_allows(tiny):
    study = tiny.with_(
        "recipe.averaging=ema", "tuning.hyper=averaging.decay",
        "tuning.grids={adamw=[0.4, 0.6, 0.9], muon=[0.4, 0.6, 0.9]}",
    )  # fmt: skip
    measure, asked = bowl(lambda t: 0.95)
    tuned = tune(study, measure)
    assert all(t.value < 1 for t in asked)
    assert tuned.low["muon"].edge


def test_the_baseline_is_tuned_again_at_its_top_and_rates_between_are_interpolated_in_log(tiny):
    measure, _ = bowl(lambda t: 0.002 if t.rung == 2 else 0.008)
    tuned = tune(
        tiny.with_("tuning.grids={adamw=[1e-3, 2e-3, 4e-3, 8e-3, 16e-3], muon=[1e-3, 2e-3, 4e-3, 8e-3, 16e-3]}"),
        measure,
    )
    assert [tuned.value(tiny, "adamw", k) for k in range(3)] == [0.008, pytest.approx(0.004), 0.002]
    assert tuned.value(tiny, "muon", 0) == tuned.value(tiny, "muon", 1) == 0.008


def test_a_thinner_second_tuning_takes_the_neighbours_of_the_first_optimum(tiny):
    measure, asked = bowl(lambda t: 0.008)
    tuned = tune(tiny.with_("tuning.top_points=2"), measure)
    assert sorted(t.value for t in asked if t.rung == 2) == [0.004, 0.008]
    assert tuned.top.chosen == 0.008


def test_a_diverged_trial_is_never_chosen_and_bounds_the_optimum(tiny):
    measure, asked = bowl(lambda t: 1.0, diverges=lambda t: t.value > 0.01)
    tuned = tune(tiny, measure)
    assert tuned.low["muon"].chosen == 0.008
    assert tuned.low["muon"].quality[-1] is None
    assert not tuned.low["muon"].edge  # it lies between a worse rate and a diverged one
    assert max(t.value for t in asked) == 0.016


def test_when_all_diverge_lower_rates_are_tried_and_then_the_study_stops(tiny):
    measure, asked = bowl(lambda t: 0.0004, diverges=lambda t: t.arm == "muon" and t.value > 0.0006)
    assert tune(tiny, measure).low["muon"].chosen == 0.0005
    hopeless, _ = bowl(lambda t: 0.005, diverges=lambda t: t.arm == "muon")
    with pytest.raises(NumericsError, match=r"every trial of muon diverged .* tuning.grids.muon"):
        tune(tiny, hopeless)
    assert asked


@pytest.mark.parametrize(
    ("below", "above", "between"),
    [(0.3, 0.5, (2, 4)), (0.5, 0.3, (4, 8)), (0.3, None, (2, 4)), (None, 0.9, (4, 8))],
    ids=["below is better", "above is better", "above diverged", "below diverged"],
)
def test_refining_looks_on_the_side_of_the_better_neighbour(below, above, between):
    search = Search("a", 0, [2, 4, 8], {2.0: below, 4.0: 0.1, 8.0: above})
    assert search.further() == pytest.approx(math.sqrt(math.prod(between)), rel=1e-5)


def test_widening_goes_on_by_the_factor_of_the_grid():
    quality = {1.0: 0.1, 3.0: 0.2, 4.0: 0.3}
    assert Search("a", 0, [], quality).further() == pytest.approx(1 / 3, rel=1e-5)
    assert Search("a", 0, [], {value: -q for value, q in quality.items()}).further() == pytest.approx(16 / 3, rel=1e-5)


def test_around_stays_within_the_grid():
    search = Search("a", 0, [1, 2, 4, 8], {1: 0.5, 2: 0.1, 4: 0.2, 8: 0.9})
    assert around(search, 2) == [1, 2]
    assert around(search, 3) == [1, 2, 4]
    assert around(search, 9) == [1, 2, 4, 8]


@pytest.mark.parametrize("optimum", [0.0009, 0.0045, 0.03])
def test_a_rising_quality_is_tuned_to_its_highest(tiny, optimum):
    """What is asked for and chosen is what the same quality, turned over, would ask for and choose."""
    rising = tiny.with_('recipe.metrics=["accuracy"]')
    falling, asked = bowl(lambda t: optimum, diverges=lambda t: t.value > 0.02)
    told = tune(tiny, falling)
    again: list[Trial] = []

    def turned(trials):
        again.extend(trials)
        return {t: None if q is None else -q for t, q in bowl(lambda t: optimum)[0](trials).items()} | {
            t: None for t in trials if t.value > 0.02
        }

    found = tune(rising, turned)
    assert again == asked
    assert [(t.values, t.chosen, t.edge) for t in found.all] == [(t.values, t.chosen, t.edge) for t in told.all]
    assert (
        max(q for q in found.top.quality if q is not None)
        == found.top.quality[found.top.values.index(found.top.chosen)]
    )

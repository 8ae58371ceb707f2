"""Simulated studies whose truth is known: do intervals cover, bounds hold, null arms stay null, plans keep their word?

The ordinary tests simulate a few hundred studies; the slow ones 10,000 a cell, as the table in docs/architecture.md.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from isoflop.core.significance import LEVEL, half_width, holm, p_value
from isoflop.lab import ladder
from isoflop.lab.multiplier import BOUND_LEVEL, multipliers
from isoflop.lab.power import bend_of, chances
from isoflop.store.results import Point, RunRow

RUNGS, COST = 5, math.log(2.0)
U = np.arange(RUNGS) * math.log(2.0)
SEEDS = (3, 5, 8)
NOISE = (0.002, 0.01, 0.05)
TRUE = (1.0, 1.5, 3.0)
TOLERANCE = 0.005
"""Of a bound: the isotonic top rung is a little biased where seeds are noisy."""


def power(u):
    """A power law with a floor, bits per byte over log x."""
    return 1.8 + 1.2 * np.exp(-0.3 * np.asarray(u))


def simulate(true: float, sd: float, common: float, n: int, count: int, seed: int):
    """Baselines (count, n, rungs) and an arm at the second rung (count, n); ``common`` is shared within a seed."""
    rng = np.random.default_rng([n, round(1e6 * sd), round(1e6 * common), round(1000 * true), seed])
    shared = common * rng.standard_normal((count, n, 1))
    base = power(U) + shared + sd * rng.standard_normal((count, n, RUNGS))
    arm = power(COST + math.log(true)) + shared[..., 0] + sd * rng.standard_normal((count, n))
    return base, arm


def coverage(true: float, sd: float, common: float, n: int, count: int, seed: int = 0) -> tuple[float, float]:
    """Share of studies whose interval covers, of those that have one; and the share that has one."""
    base, arm = simulate(true, sd, common, n, count, seed)
    reached, side = ladder.invert(U, base, arm)
    whole = ~np.any(side, axis=1)
    logs = reached[whole] - COST
    half = half_width(logs, LEVEL, ladder.interpolation_error(U, base[whole]))
    return float(np.mean(np.abs(logs.mean(axis=1) - math.log(true)) <= half)), float(whole.mean())


def true_at(share: float, sd: float) -> float:
    """The log amount that an arm's quality is worth so that such a share of its seeds lies beyond the ladder's top."""
    rng = np.random.default_rng(11)
    top = ladder.isotonic(power(U) + sd * rng.standard_normal((20000, RUNGS)))[:, -1]
    noise, low, high = sd * rng.standard_normal(20000), 0.0, 8.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if np.mean(power(middle) + noise < top) < share else (low, middle)
    return low


def bounds_hold(share: float, sd: float, common: float, n: int, count: int, seed: int = 0) -> tuple[float, float]:
    """Share of bounds that are true, of studies with a seed beyond the top; and the share of such studies."""
    at = true_at(share, sd)
    base, arm = simulate(math.exp(at - COST), sd, common, n, count, seed)
    reached, side = ladder.invert(U, base, arm)
    censored = np.any(side > 0, axis=1) & ~np.any(side < 0, axis=1)
    z, all_off = reached[censored], np.all(side[censored] > 0, axis=1)
    half = half_width(z, BOUND_LEVEL, ladder.interpolation_error(U, base[censored]))
    bound = np.where(all_off, z.mean(axis=1), z.mean(axis=1) - half)
    return float(np.mean(bound <= at + TOLERANCE)), float(censored.mean())


def any_null_arm_wins(arms: int, sd: float, n: int, count: int, seed: int = 0) -> float:
    """How often a study of arms that are just as good as the baseline finds one significant."""
    rng = np.random.default_rng([arms, n, round(1e6 * sd), seed])
    base = power(U) + sd * rng.standard_normal((count, 1, n, RUNGS))
    arm = power(COST) + sd * rng.standard_normal((count, arms, n))
    reached, side = ladder.invert(U, base, arm)
    error = ladder.interpolation_error(U, base[:, 0])
    logs = reached - COST
    found = np.abs(logs.mean(axis=2)) > half_width(logs, 1 - (1 - LEVEL) / arms, error[:, None])
    return float(np.mean(np.any(found & ~np.any(side, axis=2), axis=1)))


def power_of(true: float, sd: float, n: int, comparisons: int, count: int) -> float:
    """How often the effect is found, significant at the first step of Holm's correction."""
    base, arm = simulate(true, sd, 0.0, n, count, 5)
    reached, side = ladder.invert(U, base, arm)
    logs = reached - COST
    half = half_width(logs, 1 - (1 - LEVEL) / comparisons, ladder.interpolation_error(U, base))
    return float(np.mean((logs.mean(axis=1) > half) & ~np.any(side, axis=1)))


def planned(sd: float, n: int, comparisons: int) -> float | None:
    """The least multiplier that a plan promises to find with a chance of 80 %, from what an earlier study showed."""
    base, arm = simulate(1.0, sd, 0.0, n, 4000, 77)
    reached, side = ladder.invert(U, base, arm)
    known = reached[~np.any(side, axis=1)]
    gains = (base[..., :-1] - base[..., 1:]).mean(axis=(0, 1))
    low, high = math.exp(U[0] - COST), math.exp(U[-1] - COST)
    spread = math.sqrt(float(known.var(axis=1, ddof=1).mean()))
    return chances(spread, n, comparisons, low, high, bend=bend_of(gains, np.exp(U)))[0]


# ------------------------------------------------------------ what is simulated is what is printed


def rows_of(base, arms) -> list[RunRow]:
    """Runs of one study: base (n, rungs), arms by name (n,), all at the second rung."""

    def row(arm: str, rung: int, seed: int, value: float) -> RunRow:
        flops = round(1e9 * 2**rung)
        spent = {"flops": flops, "hardware_flops": flops, "tokens": flops, "text_bytes": flops, "seconds": 1.0}
        name = f"{arm}-{rung}-{seed}"
        end = Point(step=flops, **spent, value=value, stderr=None)
        common = {"run": name, "recipe_hash": name, "arm": arm, "rung": rung, "seed": seed}
        return RunRow(**common, role="evaluation", status="done", curve=[end])

    rows = [row("base", k, s, float(base[s, k])) for s, k in np.ndindex(base.shape)]
    return rows + [row(name, 1, s, float(value)) for name, arm in arms.items() for s, value in enumerate(arm)]


@pytest.mark.parametrize(("sd", "true"), [(0.01, 1.5), (0.05, 6.0), (0.02, 0.55)])
def test_a_simulated_study_is_one_that_is_printed(sd, true):
    """Intervals, bounds and significance of the arrays are those of ``multipliers``."""
    base, arm = simulate(true, sd, 0.02, 3, 25, 9)
    reached, side = ladder.invert(U, base, arm)
    for b, a, z, s in zip(base, arm, reached, side, strict=True):
        (row,) = multipliers(rows_of(b, {"arm": a}), baseline="base", axis="flops")
        error = float(ladder.interpolation_error(U, b))
        if not s.any():
            mean, half = z.mean() - COST, half_width(z, LEVEL, error)
            assert (math.log(row.low), math.log(row.high)) == pytest.approx((mean - half, mean + half), abs=1e-6)
            assert row.significant == (p_value(z - COST, error) < 0.05)
            continue
        assert row.value is None
        assert row.p is None
        if set(s.tolist()) == {1} or set(s.tolist()) == {-1}:
            assert math.log(row.bound) == pytest.approx(z.mean() - COST, abs=1e-6)
        elif not {1, -1} <= set(s.tolist()):
            sign = 1 if s.max() > 0 else -1
            end = z.mean() - COST - sign * half_width(z, BOUND_LEVEL, error)
            assert math.log(row.bound) == pytest.approx(end, abs=1e-6)
        else:
            assert row.bound is None


@pytest.mark.parametrize(("true", "sd", "common"), [(1.5, 0.01, 0.0), (3.0, 0.002, 0.1)])
def test_intervals_cover_in_a_few_hundred_studies(true, sd, common):
    covered, known = coverage(true, sd, common, 5, 600)
    assert 0.92 <= covered <= 0.98
    assert known > 0.99


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_bounds_are_true_in_a_few_hundred_studies(share):
    held, seen = bounds_hold(share, 0.01, 0.0, 3, 800)
    assert seen > 0.4
    assert held >= 0.93


def test_ten_arms_that_are_the_baseline_are_seldom_found_better_or_worse():
    assert any_null_arm_wins(10, 0.01, 5, 1000) <= 0.07


def test_a_plan_keeps_its_word_in_a_few_hundred_studies():
    least = planned(0.01, 5, 2)
    assert least is not None
    assert power_of(least, 0.01, 5, 2, 2000) == pytest.approx(0.8, abs=0.06)


# ------------------------------------------------------------ odd studies, exactly


def curve_of(*arms: float):
    return np.tile(power(U), (3, 1)), {"arm": np.array([power(COST + math.log(m)) for m in arms])}


def one(base, arms):
    (row,) = multipliers(rows_of(base, arms), baseline="base", axis="flops")
    return row


def test_a_tie_with_a_rung_is_that_rung_and_no_bound():
    """An arm that ends exactly as the baseline's top or lowest rung is measured, not censored."""
    spread = np.array([[0.0], [0.001], [-0.001]])
    base = np.tile(power(U), (3, 1)) + spread
    top = one(base, {"arm": base[:, -1] + [0.0, 1e-4, 2e-4]})
    assert (top.censored, top.per_seed[0]) == ("", pytest.approx(8.0))
    low = one(base, {"arm": base[:, 0] - [0.0, 1e-4, 2e-4]})
    assert (low.censored, low.per_seed[0]) == ("", pytest.approx(0.5))
    own = one(base, {"arm": base[:, 1] + [0.0, 1e-4, -1e-4]})
    assert own.value == pytest.approx(1.0, rel=1e-3)
    assert not own.significant


def test_seeds_off_both_ends_leave_not_even_a_bound():
    base, arms = curve_of(0.4, 1.0, 12.0)
    row = one(base + np.array([[0.0], [0.001], [0.002]]), arms)
    assert (row.censored, row.bound, row.value, row.censored_seeds) == ("mixed", None, None, 2)
    assert "on both sides" in row.sentence


def test_a_diverged_seed_leaves_the_arm_without_a_row_and_counts_in_the_correction():
    base, arms = curve_of(1.5, 1.52, 1.48)
    runs = rows_of(base, {"good": arms["arm"], "bad": arms["arm"] + 0.001})
    alone = multipliers(rows_of(base, {"good": arms["arm"]}), baseline="base", axis="flops")[0]
    lost = [
        row.model_copy(update={"status": "diverged", "curve": []}) if (row.arm, row.seed) == ("bad", 1) else row
        for row in runs
    ]
    (row,) = multipliers(lost, baseline="base", axis="flops")
    assert row.arm == "good"
    assert row.p == pytest.approx(2 * alone.p)


def test_fewer_than_three_seeds_make_no_row():
    base, arms = curve_of(1.5, 1.52, 1.48)
    runs = [row for row in rows_of(base, arms) if row.seed < 2]
    assert multipliers(runs, baseline="base", axis="flops") == []


# ------------------------------------------------------------ the whole table


@pytest.mark.slow
@pytest.mark.parametrize(("n", "sd", "common", "true"), [*itertools.product(SEEDS, NOISE, (0.0, 0.05), TRUE)])
def test_intervals_cover(n, sd, common, true):
    covered, known = coverage(true, sd, common, n, 10_000)
    print(f"coverage n={n} sd={sd} common={common} true={true}: {100 * covered:.2f} % ({100 * known:.1f} % known)")
    assert 0.93 <= covered <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize(("n", "sd", "common", "share"), [*itertools.product(SEEDS, NOISE, (0.0, 0.05), (0.2, 0.5))])
def test_bounds_are_true(n, sd, common, share):
    held, seen = bounds_hold(share, sd, common, n, 10_000)
    print(f"bounds n={n} sd={sd} common={common} censored={share}: {100 * held:.2f} % ({100 * seen:.1f} % seen)")
    assert held >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize(("n", "sd"), [*itertools.product(SEEDS, NOISE)])
def test_ten_null_arms_seldom_win(n, sd):
    wins = any_null_arm_wins(10, sd, n, 10_000)
    print(f"ten null arms n={n} sd={sd}: {100 * wins:.2f} %")
    assert wins <= 0.055


@pytest.mark.slow
@pytest.mark.parametrize(("n", "sd", "comparisons"), [*itertools.product(SEEDS, NOISE, (1, 3))])
def test_a_plan_keeps_its_word(n, sd, comparisons):
    least = planned(sd, n, comparisons)
    if least is None:
        pytest.skip("nothing is promised")
    found = power_of(least, sd, n, comparisons, 10_000)
    print(f"power n={n} sd={sd} comparisons={comparisons}: {least:.3f}x found in {100 * found:.1f} %")
    assert found == pytest.approx(0.8, abs=0.05)


def test_holm_is_the_same_as_the_first_step_where_one_is_asked():
    """``any_null_arm_wins`` asks Holm's first step alone: a study wins if and only if its best arm passes that."""
    rng = np.random.default_rng(3)
    for _ in range(50):
        raw = rng.random(10) ** 3
        adjusted = [p for p in holm(raw.tolist()) if p is not None]
        assert (min(adjusted) < 0.05) == (raw.min() < 0.05 / 10)

"""The multiplier is what it says: planted ones are found, intervals cover, nothing is extrapolated."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from isoflop.core.errors import DataError
from isoflop.core.scale import Scale
from isoflop.core.significance import half_width
from isoflop.lab.ladder import invert
from isoflop.lab.multiplier import (
    AXES,
    Facts,
    crossing,
    estimate,
    illegal,
    interpolation_error,
    multipliers,
    reach,
)
from isoflop.store.results import MultiplierRow, Point, RunRow, decimals

LADDER = (1e12, 2e12, 4e12, 8e12)


def point(x: float, y: float, **changes: float) -> Point:
    amounts = {
        "step": int(x / 1e9),
        "flops": int(x),
        "hardware_flops": int(x),
        "tokens": int(x / 1e6),
        "seconds": x / 1e10,
    }
    return Point(**{"text_bytes": int(x / 3e5), "value": y, "stderr": 0.01, **amounts, **changes})


def run(arm: str, rung: int, seed: int, x: float, y: float, *, status: str = "done", exclusive: bool = True) -> RunRow:
    return RunRow(
        run=f"{arm}-{rung}-{seed}", recipe_hash="0", arm=arm, rung=rung, seed=seed, role="evaluation",
        status=status, curve=[point(x, y)], exclusive=exclusive,
    )  # fmt: skip


def study(arms: dict[str, list[float]], *, curve=lambda x: 3.0 - 0.2 * math.log2(x / 1e12), cost=1.0) -> list[RunRow]:
    """A baseline on the ladder, without noise, and arms at the lowest rung with a planted multiplier for each seed."""
    seeds = range(len(next(iter(arms.values()))))
    runs = [run("base", k, s, x, curve(x) + 0.01 * s) for s in seeds for k, x in enumerate(LADDER)]
    for arm, planted in arms.items():
        runs += [run(arm, 0, s, cost * 1e12, curve(m * cost * 1e12) + 0.01 * s) for s, m in enumerate(planted)]
    return runs


@given(
    m=st.floats(1.02, 7.9),
    exponent=st.floats(0.05, 0.6),
    floor=st.floats(0.0, 2.0),
    cost=st.floats(0.5, 1.0),
)
def test_a_planted_power_law_is_recovered(m, exponent, floor, cost):
    curve = lambda x: floor + 2 * (x / 1e12) ** -exponent  # noqa: E731
    if not 1 <= m * cost <= 8:
        return
    found, side = reach(LADDER, [curve(x) for x in LADDER], curve(m * cost * 1e12))
    assert side == ""
    assert found / (cost * 1e12) == pytest.approx(m, rel=2e-4)


@given(
    y=st.lists(st.floats(0.5, 5), min_size=3, max_size=6),
    target=st.floats(0.2, 6),
    scale=st.floats(0.01, 100),
    shift=st.floats(-3, 3),
    data=st.data(),
)
def test_reach_keeps_to_the_ladder_and_respects_its_symmetries(y, target, scale, shift, data):
    x = np.cumsum([data.draw(st.floats(1, 10)) for _ in y])
    needed, side = reach(x, y, target)
    assert x[0] <= needed <= x[-1], "extrapolated"
    assert (needed == x[-1]) if side == "above" else (needed == x[0]) if side == "below" else True
    scaled, same = reach(scale * x, y, target)  # another unit of the axis
    assert same == side
    assert scaled == pytest.approx(scale * needed)
    order = data.draw(st.permutations(range(len(y))))
    assert reach(x[list(order)], [y[i] for i in order], target) == (needed, side)
    better, _ = reach(x, y, target - abs(shift))  # a better target never needs less
    assert better >= needed * (1 - 1e-12)


@given(power=st.floats(0.3, 3), target=st.floats(2.41, 2.99))
def test_a_monotone_power_of_the_axis_raises_the_multiplier_to_that_power(power, target):
    y = [3.0, 2.8, 2.6, 2.4]
    x = np.asarray([1.0, 2.0, 4.0, 8.0])
    needed, side = reach(x, y, target)
    powered, same = reach(x**power, y, target)
    assert side == same == ""
    assert powered == pytest.approx(needed**power)


def test_noise_that_breaks_the_order_of_rungs_is_pooled():
    x = [1.0, 2.0, 4.0, 8.0]
    needed, side = reach(x, [3.0, 2.6, 2.8, 2.4], 2.7)  # the middle rungs become one plateau at 2.7
    assert (needed, side) == (pytest.approx(2.0), "")


def test_a_multiplier_beyond_the_ladder_is_only_a_bound():
    """Never extrapolated: four seeds beyond the top rung give "> 8x" and nothing else."""
    (row,) = multipliers(study({"arm": [9.0, 12.0, 30.0, 8.1]}), baseline="base", axis="flops")
    assert (row.value, row.low, row.high, row.p) == (None, None, None, None)
    assert (row.censored, row.bound, row.censored_seeds) == ("above", pytest.approx(8.0), 4)
    assert row.per_seed == [None] * 4
    assert not row.significant
    assert row.sentence == (
        "arm saves compute: base needs more than 8.00x as much for the same bits per byte (4 of 4 seeds end beyond the "
        "top of base's ladder)"
    )


def end_of(planted: list[float], limit: float, side: int) -> float:
    """Where a 99 % interval ends around seeds of which those beyond the limit stand at it."""
    logs = np.log([min(m, limit) if side > 0 else max(m, limit) for m in planted])
    return math.exp(logs.mean() - side * half_width(logs, 0.99))


def test_a_bound_counts_every_seed_and_the_censored_ones_at_their_limits():
    """The geometric mean is no bound: it is as likely as not beyond the true multiplier."""
    (row,) = multipliers(study({"arm": [9.0, 12.0, 30.0, 3.0]}), baseline="base", axis="flops")
    assert (row.censored, row.bound, row.censored_seeds) == ("above", pytest.approx(end_of([9, 12, 30, 3.0], 8, 1)), 3)
    assert row.per_seed == [None, None, None, pytest.approx(3.0)]
    assert f"needs more than {math.floor(100 * row.bound) / 100:.2f}x as much for the same" in row.sentence
    assert "3 of 4 seeds end beyond the top of base's ladder, counted as if at it; the end of a 99 %" in row.sentence


@given(planted=st.lists(st.floats(0.2, 40), min_size=3, max_size=5), cost=st.sampled_from([1.0, 1.25, 2.0]))
def test_the_geometric_mean_never_lies_beyond_its_bound(planted, cost):
    (row,) = multipliers(study({"arm": planted}, cost=cost), baseline="base", axis="flops")
    mean = float(np.exp(np.mean(np.log(planted))))
    if row.censored == "above":
        assert row.bound <= mean * (1 + 1e-9)
    if row.censored == "below":
        assert row.bound >= mean * (1 - 1e-9)


def test_an_arm_short_of_the_lowest_rung_is_only_a_bound():
    (row,) = multipliers(study({"arm": [0.5, 0.6, 0.7]}, cost=1.25), baseline="base", axis="flops")
    assert (row.censored, row.bound, row.censored_seeds) == ("below", pytest.approx(0.8), 3)
    assert row.sentence == (
        "arm takes more compute: base needs less than 0.80x as much for the same bits per byte (3 of 3 seeds end at or "
        "below the start of base's ladder)"
    )


@pytest.mark.parametrize(
    ("planted", "cost"), [([0.5, 0.6, 1.6], 1.25), ([0.7, 1.1, 1.2, 1.4], 1.0), ([0.8, 0.8, 0.8], 0.9)]
)
def test_an_arm_that_may_be_better_is_not_said_to_fall_short(planted, cost):
    """A seed at the ladder's start says only that the row is a bound; so do cheap runs, whose limit is above 1."""
    (row,) = multipliers(study({"arm": planted}, cost=cost), baseline="base", axis="flops")
    short = sum(m * cost < 1 for m in planted)
    assert (row.censored, row.censored_seeds) == ("below", short)
    assert row.bound == pytest.approx(end_of(planted, 1 / cost, -1) if short < len(planted) else 1 / cost)
    assert "takes more" not in row.sentence
    limits = ", counted as if at it; the end of a 99 % interval" if short < len(planted) else ""
    told = f"({short} of {len(planted)} seeds end at or below the start of base's ladder{limits})"
    assert row.sentence.startswith("arm's place in compute is known only as a bound: base needs less than ")
    assert told in row.sentence


def test_a_bound_below_one_is_not_said_to_save():
    (row,) = multipliers(study({"arm": [2.0, 2.0, 0.5]}, cost=10.0), baseline="base", axis="flops")
    assert (row.censored, row.bound) == ("above", pytest.approx(end_of([2.0, 2.0, 0.5], 0.8, 1)))
    told = f"base needs more than {math.floor(100 * row.bound) / 100:.2f}x as much for"
    assert row.sentence.startswith(f"arm's place in compute is known only as a bound: {told}")


def test_seeds_on_both_sides_of_the_ladder_give_no_bound():
    (row,) = multipliers(study({"arm": [0.5, 2.0, 9.0]}), baseline="base", axis="flops")
    assert (row.censored, row.bound, row.censored_seeds) == ("mixed", None, 2)
    assert row.sentence == "arm cannot be compared in compute: 2 of 3 seeds lie outside base's ladder, on both sides"


def test_seeds_are_paired_and_the_geometric_mean_is_taken():
    (row,) = multipliers(study({"arm": [1.5, 2.0, 3.0]}), baseline="base", axis="flops")
    assert row.per_seed == [pytest.approx(1.5), pytest.approx(2.0), pytest.approx(3.0)]
    assert row.value == pytest.approx(9 ** (1 / 3))
    logs = np.log([1.5, 2.0, 3.0])
    half = 4.302652729911275 * logs.std(ddof=1) / math.sqrt(3)  # Student's t, 2 degrees of freedom
    assert row.low == pytest.approx(math.exp(logs.mean() - half))
    assert row.high == pytest.approx(math.exp(logs.mean() + half))


def test_arms_cost_what_they_measured_on_each_axis():
    runs = study({"arm": [2.0, 2.1, 1.9]})
    dear = []
    for r in runs:
        spent = r.curve[0].model_copy(update={"flops": int(1.25e12)})
        dear.append(r if r.arm == "base" else r.model_copy(update={"curve": [spent]}))
    by_tokens = multipliers(dear, baseline="base", axis="tokens")[0]
    by_flops = multipliers(dear, baseline="base", axis="flops")[0]
    assert by_flops.value == pytest.approx(by_tokens.value / 1.25)


def test_all_in_charges_the_trials_to_both_sides():
    (row,) = multipliers(
        study({"arm": [3.0, 3.0, 3.0]}), baseline="base", axis="flops", tuning={"base": 4e12, "arm": 5e12}
    )
    assert row.all_in
    assert row.value == pytest.approx((3 + 4) / (1 + 5))
    assert "tuning charged" in row.sentence


@pytest.mark.parametrize("n", [3, 4])
def test_the_interval_covers_the_planted_multiplier(n):
    studies, planted = 2000, 3.0
    rng = np.random.default_rng(n)
    u = np.log([1.0, 2.0, 4.0, 8.0])
    y = 3.0 - 0.3 * u + 0.02 * rng.standard_normal((studies, n, 4))
    targets = 3.0 - 0.3 * math.log(planted) + 0.02 * rng.standard_normal((studies, n))
    logs, side = invert(u, y, targets)
    assert not np.any(side)
    covered = np.mean(np.abs(logs.mean(axis=1) - math.log(planted)) <= half_width(logs))
    assert 0.935 <= covered <= 0.965  # three standard errors of a coverage of 95 %


@pytest.mark.parametrize(("exponent", "sd"), [(0.3, 0.003), (0.6, 0.003)])
def test_the_interval_covers_where_seeds_are_quiet(exponent, sd):
    """Runs that barely differ show every bias: between rungs a straight line is 2 to 4 % too high."""
    rng = np.random.default_rng(7)
    inside = []
    for _ in range(80):
        runs = [
            run(arm, rung, seed, x, 1.8 + 1.2 * (m * x / 1e12) ** -exponent + sd * rng.standard_normal())
            for seed in range(5)
            for arm, rung, x, m in [*(("base", k, x, 1.0) for k, x in enumerate(LADDER)), ("arm", 1, LADDER[1], 1.5)]
        ]
        (row,) = multipliers(runs, baseline="base", axis="flops")
        inside.append(row.low <= 1.5 <= row.high)
    assert np.mean(inside) >= 0.88  # 95 % less three standard errors


def test_the_curve_s_own_error_is_in_the_interval_and_the_p_value():
    alone, shared = estimate([2.0, 2.2, 1.9, 2.1]), estimate([2.0, 2.2, 1.9, 2.1], error=0.1)
    logs = np.log([2.0, 2.2, 1.9, 2.1])
    deviation = math.sqrt(logs.var(ddof=1) / 4 + 0.1**2)
    assert math.log(shared.high / shared.value) == pytest.approx(3.182446305284263 * deviation)
    assert math.log(shared.value / shared.low) == pytest.approx(3.182446305284263 * deviation)
    assert shared.value == alone.value
    assert shared.p == pytest.approx(2 * stats.t.sf(logs.mean() / deviation, 3))


def bent(arms: dict[str, list[float]], **changes: float) -> list[RunRow]:
    """Studies whose baseline is no power law: its rungs say so themselves."""
    return study(arms, curve=lambda x: 2.0 + 1.2 / (1 + (x / 1e12 / 2.7) ** 1.5), **changes)


def test_every_row_says_how_wrong_the_curve_between_rungs_may_be():
    runs = bent({"a": [2.0, 2.1, 2.2], "b": [3.0, 3.3, 3.1]})
    ladders = [(LADDER, [r.curve[0].value for r in runs if (r.arm, r.seed) == ("base", s)]) for s in range(3)]
    wanted = interpolation_error(ladders)
    rows = multipliers(runs, baseline="base", axis="flops")
    assert wanted > 0.005
    assert [row.interpolation for row in rows] == pytest.approx([wanted] * 2)
    for row in rows:
        logs = np.log(row.per_seed)
        assert math.log(row.high / row.value) == pytest.approx(half_width(logs, row.level, wanted))
    assert multipliers(study({"a": [2.0, 2.1, 2.2]}), baseline="base", axis="flops")[0].interpolation < 1e-9


def test_charging_tuning_dilutes_the_curve_s_error():
    runs = bent({"arm": [2.0, 2.0, 2.0]})
    (plain,) = multipliers(runs, baseline="base", axis="flops")
    (charged,) = multipliers(runs, baseline="base", axis="flops", tuning={"base": 6e12, "arm": 5e12})
    assert charged.interpolation == pytest.approx(plain.interpolation * 2 / (2 + 6), rel=0.02)


def test_a_seed_with_fewer_rungs_does_not_hide_the_curve_s_error():
    ladders = [(LADDER, [3.0, 2.6, 2.15, 2.1])] * 2
    short = [(LADDER[:3], [3.0, 2.6, 2.2])]
    assert interpolation_error(ladders + short) == interpolation_error(ladders) > 0.001


NO_NUMBERS = [math.nan, math.inf, -math.inf, 0.0, -1.0, "x", None]


@pytest.mark.parametrize("wrong", NO_NUMBERS)
def test_public_functions_refuse_what_is_no_amount(wrong):
    for call in (
        lambda: estimate([1.1, wrong, 1.2]),
        lambda: reach([1.0, wrong, 4.0], [3.0, 2.8, 2.6], 2.7),
        lambda: interpolation_error([([1.0, 2.0, wrong], [3.0, 2.8, 2.6])]),
    ):
        with pytest.raises(DataError):
            call()


@pytest.mark.parametrize("wrong", [w for w in NO_NUMBERS if w not in (0.0, -1.0)])
def test_public_functions_refuse_what_is_no_quality(wrong):
    for call in (
        lambda: reach([1.0, 2.0, 4.0], [3.0, wrong, 2.6], 2.7),
        lambda: reach([1.0, 2.0, 4.0], [3.0, 2.8, 2.6], wrong),
        lambda: interpolation_error([([1.0, 2.0, 4.0], [3.0, wrong, 2.6])]),
        lambda: estimate([1.1, 1.3, 1.2], error=wrong),
    ):
        with pytest.raises(DataError):
            call()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: reach([1, 2, 4], [3, 2], 2.5), "3 amounts and 2 qualities"),
        (lambda: reach([1, 2], [3, 2], 2.5), "2 rungs, at least 3"),
        (lambda: reach([], [], 2.5), "0 rungs, at least 3"),
        (lambda: reach([1, 2, 2, 4], [3, 2.8, 2.7, 2.5], 2.6), "two rungs have the amount 2"),
        (lambda: reach([[1, 2, 4]], [[3, 2, 1]], 2.5), "shape"),
        (lambda: reach([1, 2, 4], [3, 2, 1], [2.5]), "shape"),
        (lambda: reach([1, 10**400, 4], [3, 2, 1], 2.5), "not every amount is a number"),
        (lambda: interpolation_error([]), "at least one seed"),
        (lambda: estimate([2.0, 2.0]), "at least 3 seeds"),
        (lambda: estimate(2.0), "shape"),
        (lambda: estimate([2.0, 2.1, 2.2], level=1.0), "level 1"),
        (lambda: estimate([2.0, 2.1, 2.2], error=-0.1), "error -0.1"),
    ],
)
def test_public_functions_say_what_does_not_fit(call, said):
    with pytest.raises(DataError, match=said):
        call()


@pytest.mark.parametrize("m", [1.0, 1.1, 2.0, 1e-30])
def test_seeds_that_are_all_alike_say_nothing_of_their_noise(m):
    for same in ([m] * 3, [m, m * (1 + 1e-16), m * (1 + 3e-16)]):
        with pytest.raises(DataError, match="nothing is known of their noise"):
            estimate(same)


def test_an_axis_needs_seeds_that_differ():
    runs = study({"arm": [2.0, 2.0, 2.0]})
    alike = [r.model_copy(update={"curve": [point(1e12, 2.5)]}) if r.arm == "arm" else r for r in runs]
    assert "arm at rung 0 ended alike in every seed" in illegal("flops", ALIKE, alike, "base")


@pytest.mark.parametrize(
    "strange",
    [np.ma.masked_array([1.1, 1.2, 1.3], [0, 1, 0]), np.asarray(["2020-01-01"] * 3, "M8[D]"), ["1.1", "1.2", "1.3"],
     [True, True, False], [1 + 1j, 2, 3], (x for x in (1.1, 1.2, 1.3))],
)  # fmt: skip
def test_what_numpy_would_take_for_numbers_is_refused(strange):
    """A mask would be dropped, a date counted in days, a flag as 1."""
    with pytest.raises(DataError):
        estimate(strange)


@given(
    y=st.lists(st.floats(-1e100, 1e100), min_size=3, max_size=6),
    data=st.data(),
)
def test_reach_is_finite_on_any_ladder(y, data):
    x = data.draw(st.lists(st.floats(1e-100, 1e100), min_size=len(y), max_size=len(y), unique_by=math.log))
    needed, _ = reach(x, y, data.draw(st.floats(-1e100, 1e100)))
    assert min(x) <= needed <= max(x)
    assert 0 <= interpolation_error([(x, y)]) < math.inf


def test_exact_integers_beyond_64_bits_are_amounts():
    x = [10**24, 2 * 10**24, 4 * 10**24]
    assert reach(x, [3.0, 2.8, 2.6], 2.7)[0] == pytest.approx(10**24 * math.sqrt(8))
    assert estimate([2, 3, 10**25]).value > 1


def test_estimate_agrees_with_its_p_value():
    clear, unclear = estimate([2.0, 2.2, 1.9, 2.1]), estimate([0.8, 1.3, 1.1])
    assert clear.low > 1
    assert clear.p < 0.05
    assert unclear.low < 1 < unclear.high
    assert unclear.p > 0.05


@pytest.mark.parametrize("error", [0.0, 0.02])
@pytest.mark.parametrize("seeds", [[1.1, 1.3, 1.2], [1.1, 1.3, 1.25, 1.2, 1.15, 1.0]])
def test_an_interval_that_ends_at_one_has_the_p_value_of_its_level(seeds, error):
    for level in (0.95, 0.8):
        found = estimate(seeds, level=level, error=error)
        for end in (found.low, found.high):
            assert estimate([m / end for m in seeds], level=level, error=error).p == pytest.approx(1 - level, rel=1e-9)


def test_holm_over_the_arms_can_take_significance_away():
    planted = [1.3, 1.55, 1.75]
    alone = multipliers(study({"a": planted}), baseline="base", axis="flops")
    three = multipliers(study(dict.fromkeys("abc", planted)), baseline="base", axis="flops")
    assert alone[0].significant
    assert alone[0].level == 0.95
    assert "arm" not in alone[0].sentence
    assert alone[0].sentence == (
        "a saves compute: base needs 1.52x as much for the same bits per byte (95 % interval 1.05 to 2.21, 3 seeds)"
    )
    assert all(not row.significant and "shows no significant difference" in row.sentence for row in three)
    assert three[0].p == pytest.approx(3 * alone[0].p)
    assert all(row.low < 1 and "(98.3 % interval 0." in row.sentence for row in three)


def at_rungs(planted: dict[tuple[str, int], list[float]]) -> list[RunRow]:
    """A baseline without noise and arms at any rungs."""
    runs = [r for r in study({"x": [2.0] * len(next(iter(planted.values())))}) if r.arm == "base"]
    for (arm, rung), found in planted.items():
        for s, m in enumerate(found):
            runs.append(run(arm, rung, s, LADDER[rung], 3.0 - 0.2 * math.log2(m * LADDER[rung] / 1e12) + 0.01 * s))
    return runs


@pytest.mark.parametrize(
    ("other", "planted", "diverges"),
    [
        (("a", 1), [1.3, 1.55, 1.75], False),
        (("b", 1), [1.3, 1.55, 1.75], False),
        (("b", 0), [90.0] * 3, False),
        (("b", 0), [2.0] * 3, True),
    ],
)
def test_every_arm_at_every_rung_is_a_comparison_of_the_study(other, planted, diverges):
    """One that diverged or is censored too: it was tried, and only its outcome keeps it from being counted."""
    cell = [1.3, 1.55, 1.75]
    alone = multipliers(at_rungs({("a", 0): cell}), baseline="base", axis="flops")[0]
    runs = at_rungs({("a", 0): cell, other: planted})
    if diverges:
        runs[-1] = runs[-1].model_copy(update={"status": "diverged", "curve": []})
    row = multipliers(runs, baseline="base", axis="flops")[0]
    assert row.p == pytest.approx(2 * alone.p)
    assert row.level == pytest.approx(0.975)
    assert (alone.significant, row.significant) == (True, False)


def test_an_end_that_is_not_one_is_not_printed_as_one():
    assert [decimals(low, 2.0) for low in (0.9, 1.02, 0.96, 1.004, 1.0001)] == [1, 2, 2, 3, 3]
    assert decimals(0.5, 1.02) == 2


@given(
    cells=st.lists(st.tuples(st.floats(1.4, 4), st.floats(0.001, 0.3)), min_size=1, max_size=5),
    censored=st.integers(0, 2),
)
def test_an_interval_excludes_one_exactly_if_it_is_significant(cells, censored):
    planted = {f"a{i}": [m * math.exp(w * e) for e in (-1.2, 0.1, 0.9)] for i, (m, w) in enumerate(cells)}
    planted |= {f"c{i}": [30.0] * 3 for i in range(censored)}
    rows = [row for row in multipliers(study(planted), baseline="base", axis="flops") if not row.censored]
    for row in rows:
        assert row.significant == (not row.low <= 1 <= row.high)
        assert 0.95 <= row.level <= 1 - 0.05 / len(planted) + 1e-12


def test_a_slower_arm_is_said_to_need_more():
    runs = study({"arm": [0.5, 0.52, 0.48]}, cost=4.0)
    (row,) = multipliers(runs, baseline="base", axis="flops")
    assert row.significant
    assert row.sentence == (
        "arm takes more compute: base needs 0.50x as much for the same bits per byte (95 % interval 0.45 to 0.55, "
        "3 seeds)"
    )


def test_a_diverged_arm_never_ranks():
    runs = study({"good": [2.0, 2.0, 2.1], "bad": [4.0, 4.0, 4.0]})
    broken = [
        r.model_copy(update={"status": "diverged", "curve": []}) if (r.arm, r.seed) == ("bad", 1) else r for r in runs
    ]
    assert [row.arm for row in multipliers(broken, baseline="base", axis="flops")] == ["good"]


def test_a_diverged_baseline_run_only_shortens_its_seeds_curve():
    runs = study({"arm": [6.0, 6.0, 6.0]})
    broken = [
        r.model_copy(update={"status": "diverged", "curve": []}) if (r.arm, r.rung, r.seed) == ("base", 3, 0) else r
        for r in runs
    ]
    (row,) = multipliers(broken, baseline="base", axis="flops")
    assert (row.censored, row.censored_seeds, row.bound) == (
        "above",
        1,
        pytest.approx(end_of([6.0, 6, 6], 4, 1), abs=3),
    )
    assert row.bound < (4 * 6 * 6) ** (1 / 3)


def row_at(rung: int, value: float, low: float, high: float) -> MultiplierRow:
    return MultiplierRow(arm="a", rung=rung, axis="flops", value=value, low=low, high=high, p=0.01, seeds=4)


def test_crossing_needs_intervals_on_both_sides_of_one():
    amounts = [1.0, 2.0, 4.0]
    assert crossing([row_at(0, 2.0, 1.5, 2.5), row_at(2, 0.5, 0.4, 0.6)], amounts) == pytest.approx(2.0)
    assert crossing([row_at(0, 2.0, 1.5, 2.5), row_at(2, 0.9, 0.7, 1.2)], amounts) is None


def test_a_bound_counts_for_a_crossing_only_if_all_seeds_are_censored():
    amounts = [1.0, 2.0, 4.0]
    censored = MultiplierRow(arm="a", rung=1, axis="flops", censored="below", bound=0.9, censored_seeds=4, seeds=4)
    assert crossing([row_at(0, 2.0, 1.5, 2.5), censored], amounts) == pytest.approx(math.sqrt(2))
    some = censored.model_copy(update={"censored_seeds": 3})
    assert crossing([row_at(0, 2.0, 1.5, 2.5), some], amounts) is None


def test_a_crossing_rests_on_what_is_significant():
    """Two rungs that alone would each be significant, on two sides of 1, and together are not."""
    above, below = [1.3, 1.55, 1.75], [0.75, 0.62, 0.58]
    runs = at_rungs({("a", 1): above, ("a", 2): below})
    amounts = [1.0, 2.0, 4.0, 8.0]
    alone = [multipliers([r for r in runs if r.arm == "base" or r.rung == k], baseline="base", axis="flops")[0]
             for k in (1, 2)]  # fmt: skip
    assert all(row.significant for row in alone)
    assert crossing(alone, amounts) is not None
    together = multipliers(runs, baseline="base", axis="flops")
    assert not any(row.significant for row in together)
    assert crossing(together, amounts) is None


@pytest.mark.parametrize(
    ("planted", "told"),
    [
        ([1.105, 1.11, 1.115], "needs 1.110x as much for the same bits per byte (95 % interval 1.098 to 1.122"),
        (
            [1.0 / 1.105, 1.0 / 1.11, 1.0 / 1.115],
            "0.901x as much for the same bits per byte (95 % interval 0.891 to 0.911",
        ),
        ([1.05, 1.1, 1.15], "1.10x as much for the same bits per byte (95 % interval 0.98 to 1.23"),
        ([1.5, 1.55, 1.6], "1.55x as much for the same bits per byte (95 % interval 1.43 to 1.68"),
        ([2.0, 3.0, 4.0], "2.88x as much for the same bits per byte (95 % interval 1.21 to 6.85"),
        ([2.0, 2.0, 2.0], "2.000x as much for the same bits per byte (95 % interval 2.000 to 2.000"),
    ],
)
def test_digits_follow_the_width_of_the_interval(planted, told):
    (row,) = multipliers(study({"arm": planted}, cost=1.5), baseline="base", axis="flops")
    assert told in row.sentence


ALIKE = {"base": Facts(100, 64, "bytes"), "arm": Facts(100, 64, "bytes")}


@pytest.mark.parametrize(
    ("axis", "other", "reason"),
    [
        ("steps", Facts(100, 128, "bytes"), "different batches"),
        ("tokens", Facts(200, 64, "bytes"), "larger model"),
        ("text_bytes", Facts(200, 64, "bytes"), "larger model"),
        ("tokens", Facts(100, 64, "bpe"), "different tokenizers"),
        ("hardware_flops", Facts(100, 64, "bytes", "cuda:0"), "arm ran on cuda:0"),
    ],
)
def test_axes_that_cannot_be_compared_are_refused_with_the_reason(axis, other, reason):
    runs = study({"arm": [2.0, 2.0, 2.0]})
    assert illegal(axis, ALIKE, runs, "base") == ""
    assert reason in illegal(axis, {**ALIKE, "arm": other}, runs, "base")
    assert illegal("flops", {**ALIKE, "arm": other}, runs, "base") == ""


def test_executed_flops_of_any_processor_are_compared():
    assert (
        illegal("hardware_flops", dict.fromkeys(ALIKE, Facts(1, 1, "", "cpu:0")), study({"arm": [2.0] * 3}), "base")
        == ""
    )


def test_runs_on_different_held_out_text_are_compared_on_no_axis():
    runs = [r.model_copy(update={"heldout": "a"}) for r in study({"arm": [2.0, 2.0, 2.0]})]
    runs[0] = runs[0].model_copy(update={"heldout": ""})  # it does not know
    assert [illegal(axis, ALIKE, runs, "base") for axis in AXES] == [""] * len(AXES)
    runs[-1] = runs[-1].model_copy(update={"heldout": "b"})
    assert all("evaluated on different text" in illegal(axis, ALIKE, runs, "base") for axis in AXES)


def test_runs_of_an_arm_on_different_training_text_are_compared_on_no_axis():
    runs = [r.model_copy(update={"fingerprint": r.arm}) for r in study({"arm": [2.0, 2.0, 2.0]})]
    assert illegal("flops", ALIKE, runs, "base") == "", "arms may differ: data can be what is compared"
    runs[-1] = runs[-1].model_copy(update={"fingerprint": "changed"})
    assert all("training text changed" in illegal(axis, ALIKE, runs, "base") for axis in AXES)


def test_seconds_need_exclusive_runs():
    runs = study({"arm": [2.0, 2.0, 2.0]})
    assert illegal("seconds", ALIKE, runs, "base") == ""
    assert "workers = 1" in illegal(
        "seconds", ALIKE, [*runs[:-1], runs[-1].model_copy(update={"exclusive": False})], "base"
    )


@pytest.mark.parametrize(("cpu", "device", "legal"), [(9.5, "cpu", True), (5.0, "cpu", False), (5.0, "cuda", True)])
def test_seconds_beside_other_work_are_not_compared(cpu, device, legal):
    """A run alone in its study may still share the processor with somebody else's; a GPU's run mostly waits."""
    runs = [
        run.model_copy(update={"cpu_seconds": 9.9, "wall_seconds": 10.0}) for run in study({"arm": [2.0, 2.0, 2.1]})
    ]
    runs[-1] = runs[-1].model_copy(update={"cpu_seconds": cpu})
    facts = dict.fromkeys(ALIKE, Facts(100, 64, "bytes", device))
    reason = illegal("seconds", facts, runs, "base")
    assert reason == "" if legal else "they had it 50% of the time" in reason
    assert illegal("flops", facts, runs, "base") == ""


def test_an_axis_needs_three_rungs_and_a_measurement_of_every_run():
    runs = study({"arm": [2.0, 2.0, 2.0]})
    level = [r.model_copy(update={"curve": [r.curve[0].model_copy(update={"tokens": 5})]}) for r in runs]
    assert "two rungs of base spent the same" in illegal("tokens", ALIKE, level, "base")
    assert "2 rungs" in illegal("flops", ALIKE, [r for r in runs if r.rung < 2], "base")
    unmeasured = runs[0].model_copy(update={"curve": [point(1e12, 3.0, text_bytes=0)]})
    assert "base-0-0" in illegal("text_bytes", ALIKE, [unmeasured, *runs[1:]], "base")


RISING = Scale("accuracy", higher_is_better=True)


@given(planted=st.lists(st.floats(0.4, 12), min_size=3, max_size=5), seed=st.integers(0, 9))
@settings(max_examples=25, deadline=None)
def test_a_rising_quality_is_the_falling_one_turned_over(planted, seed):
    """Isotonic regression, cubics, bounds and intervals know one direction; a scale is turned once, on entering."""
    noise = np.random.default_rng(seed)
    falling = [jittered(run, noise.normal(0, 0.003)) for run in study({"arm": planted})]
    rising = [valued(run, -run.end.value) for run in falling]
    for axis in ("flops", "tokens"):
        for tuning in (None, {"base": 6e12, "arm": 5e12}):
            told = multipliers(falling, baseline="base", axis=axis, tuning=tuning)
            found = multipliers(rising, baseline="base", axis=axis, tuning=tuning, scale=RISING)
            assert [row.model_copy(update={"sentence": ""}) for row in found] == [
                row.model_copy(update={"sentence": ""}) for row in told
            ]
            assert [row.sentence for row in found] == [
                row.sentence.replace("bits per byte", "accuracy") for row in told
            ]


@pytest.mark.parametrize(
    ("arm", "base", "said"),
    [
        (False, False, ""),
        (True, False, "arm's bits per byte is a bound: the multiplier may be higher"),
        (False, True, "base's bits per byte is a bound: the multiplier may be lower"),
        (True, True, "both sides' bits per byte is a bound: bounds are compared"),
    ],
)
@pytest.mark.parametrize("planted", [[2.0, 2.1, 2.2], [9.0, 12.0, 30.0]])
def test_a_quality_that_is_a_bound_is_said_with_the_multiplier(arm, base, said, planted):
    bounds = {"arm": arm, "base": base}
    runs = [
        run.model_copy(update={"curve": [run.end.model_copy(update={"bound": bounds[run.arm]})]})
        for run in study({"arm": planted})
    ]
    (row,) = multipliers(runs, baseline="base", axis="flops")
    assert row.bounds == {(False, False): "", (True, False): "arm", (False, True): "baseline"}.get((arm, base), "both")
    assert said in row.sentence
    assert ("bound: " in row.sentence) == bool(said)
    concluded = row.significant and (arm or not base)
    assert ("arm saves compute" in row.sentence) == (concluded or row.censored == "above")


def valued(run, value):
    return run.model_copy(update={"curve": [run.end.model_copy(update={"value": value})]})


def jittered(run, noise):
    return valued(run, run.end.value + noise)

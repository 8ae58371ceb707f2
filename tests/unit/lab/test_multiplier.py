"""The multiplier is what it says: planted ones are found, intervals cover, nothing is extrapolated."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isoflop.lab.multiplier import AXES, Facts, crossing, estimate, holm, illegal, interval, multipliers, reach
from isoflop.store.results import MultiplierRow, Point, RunRow

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
    exponent=st.floats(0.05, 0.5),
    floor=st.floats(0.0, 2.0),
    cost=st.floats(0.5, 1.0),
)
def test_a_planted_power_law_is_recovered_within_the_stated_bias(m, exponent, floor, cost):
    curve = lambda x: floor + 2 * (x / 1e12) ** -exponent  # noqa: E731
    if not 1 <= m * cost <= 8:
        return
    found, side = reach(LADDER, [curve(x) for x in LADDER], curve(m * cost * 1e12))
    assert side == ""
    bias = math.exp(exponent * math.log(2) ** 2 / 8)
    assert m * (1 - 1e-9) <= found / (cost * 1e12) <= m * bias * (1 + 1e-9)


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
    assert "> 8.0x less compute (censored: 4 of 4 seeds beyond the top rung)," in row.sentence


def test_a_bound_counts_every_seed_and_the_censored_ones_at_their_limits():
    """The geometric mean is at least that, and may well lie below what one censored seed alone says."""
    (row,) = multipliers(study({"arm": [9.0, 12.0, 30.0, 3.0]}), baseline="base", axis="flops")
    assert (row.censored, row.bound, row.censored_seeds) == ("above", pytest.approx((8**3 * 3) ** 0.25), 3)
    assert row.per_seed == [None, None, None, pytest.approx(3.0)]
    assert "> 6.2x less compute (censored: 3 of 4 seeds beyond the top rung, counted at their limits)" in row.sentence


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
    assert "< 0.80x on flops (censored: 3 of 3 seeds)," in row.sentence
    (row,) = multipliers(study({"arm": [0.5, 0.6, 1.6]}, cost=1.25), baseline="base", axis="flops")
    assert (row.censored, row.bound) == ("below", pytest.approx((0.8 * 0.8 * 1.6) ** (1 / 3)))
    assert "< 1.01x on flops (censored: 2 of 3 seeds, counted at their limits)" in row.sentence


def test_seeds_on_both_sides_of_the_ladder_give_no_bound():
    (row,) = multipliers(study({"arm": [0.5, 2.0, 9.0]}), baseline="base", axis="flops")
    assert (row.censored, row.bound, row.censored_seeds) == ("mixed", None, 2)


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
    x = np.asarray([1.0, 2.0, 4.0, 8.0])
    y = 3.0 - 0.2 * np.log2(x) + 0.02 * rng.standard_normal((studies, n, 4))
    targets = 3.0 - 0.2 * np.log2(planted) + 0.02 * rng.standard_normal((studies, n))
    found = [reach(x, y[i, s], targets[i, s]) for i in range(studies) for s in range(n)]
    assert all(side == "" for _, side in found)
    mean, half = interval(np.log([m for m, _ in found]).reshape(studies, n))
    covered = np.mean(np.abs(mean - math.log(planted)) <= half)
    assert 0.935 <= covered <= 0.965  # three standard errors of a coverage of 95 %


def test_estimate_agrees_with_its_p_value():
    clear, unclear = estimate([2.0, 2.2, 1.9, 2.1]), estimate([0.8, 1.3, 1.1])
    assert clear.low > 1
    assert clear.p < 0.05
    assert unclear.low < 1 < unclear.high
    assert unclear.p > 0.05
    assert estimate([1.0, 1.0, 1.0]).p == 1.0
    with pytest.raises(ValueError, match="at least 3 seeds"):
        estimate([2.0, 2.0])


def test_holm_is_step_down_and_monotone():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.6]) == [1.0, 1.0]


def test_holm_over_the_arms_can_take_significance_away():
    planted = [1.3, 1.55, 1.75]
    alone = multipliers(study({"a": planted}), baseline="base", axis="flops")
    three = multipliers(study(dict.fromkeys("abc", planted)), baseline="base", axis="flops")
    assert alone[0].significant
    assert "arm" not in alone[0].sentence
    assert alone[0].sentence.startswith(
        "a reaches base's bits per byte with 1.5x less compute [1.1, 2.2] at 95 %, 3 seeds, tuned alike"
    )
    assert all(not row.significant and row.sentence.endswith("not significant") for row in three)
    assert three[0].p == pytest.approx(3 * alone[0].p)


def test_a_slower_arm_is_said_to_need_more():
    runs = study({"arm": [0.5, 0.52, 0.48]}, cost=4.0)
    (row,) = multipliers(runs, baseline="base", axis="flops")
    assert row.significant
    assert row.sentence.startswith("arm needs 2.0x more compute for base's bits per byte [1.8, 2.2] at 95 %, 3 seeds")


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
    assert (row.censored, row.censored_seeds, row.bound) == ("above", 1, pytest.approx((4 * 6 * 6) ** (1 / 3)))


def row_at(rung: int, value: float, low: float, high: float) -> MultiplierRow:
    return MultiplierRow(arm="a", rung=rung, axis="flops", value=value, low=low, high=high, p=0.01, seeds=4)


def test_crossing_needs_intervals_on_both_sides_of_one():
    amounts = [1.0, 2.0, 4.0]
    assert crossing([row_at(0, 2.0, 1.5, 2.5), row_at(2, 0.5, 0.4, 0.6)], amounts) == pytest.approx(2.0)
    assert crossing([row_at(0, 2.0, 1.5, 2.5), row_at(2, 0.9, 0.7, 1.2)], amounts) is None
    censored = MultiplierRow(arm="a", rung=1, axis="flops", censored="below", bound=0.9, censored_seeds=2, seeds=4)
    assert crossing([row_at(0, 2.0, 1.5, 2.5), censored], amounts) == pytest.approx(math.sqrt(2))


ALIKE = {"base": Facts(100, 64, "bytes"), "arm": Facts(100, 64, "bytes")}


@pytest.mark.parametrize(
    ("axis", "other", "reason"),
    [
        ("steps", Facts(100, 128, "bytes"), "different batches"),
        ("tokens", Facts(200, 64, "bytes"), "larger model"),
        ("text_bytes", Facts(200, 64, "bytes"), "larger model"),
        ("tokens", Facts(100, 64, "bpe"), "different tokenizers"),
    ],
)
def test_axes_that_cannot_be_compared_are_refused_with_the_reason(axis, other, reason):
    runs = study({"arm": [2.0, 2.0, 2.0]})
    assert illegal(axis, ALIKE, runs, "base") == ""
    assert reason in illegal(axis, {**ALIKE, "arm": other}, runs, "base")
    assert illegal("flops", {**ALIKE, "arm": other}, runs, "base") == ""


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


def test_an_axis_needs_three_rungs_and_a_measurement_of_every_run():
    runs = study({"arm": [2.0, 2.0, 2.0]})
    assert "2 rungs" in illegal("flops", ALIKE, [r for r in runs if r.rung < 2], "base")
    unmeasured = runs[0].model_copy(update={"curve": [point(1e12, 3.0, text_bytes=0)]})
    assert "base-0-0" in illegal("text_bytes", ALIKE, [unmeasured, *runs[1:]], "base")

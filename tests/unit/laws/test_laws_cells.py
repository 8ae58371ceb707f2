"""Every column that enters a result is looked at, as numbers or as names; what is too little to tell is said."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isoflop.core.errors import DataError, IsoflopError, NumericsError, UsageError
from isoflop.core.table import Table
from isoflop.laws import (
    Chinchilla,
    CriticalBatch,
    Frontier,
    Kaplan,
    LossToLoss,
    Power,
    PowerFloor,
    StepLaw,
    compare,
    fit_table,
    optima,
    pair,
    refit,
    simulate,
)
from isoflop.laws.forms.emergence import bimodality, seeds_needed
from isoflop.laws.simulation import planted
from laws_planted import CHINCHILLA, PLANTED, SWEEP, grid, targets

COMPUTE = 6.0 * SWEEP["N"] * SWEEP["D"]


def good(**more: Any) -> dict[str, Any]:
    return {"N": SWEEP["N"].copy(), "D": SWEEP["D"].copy(), "loss": targets("chinchilla", 1)[0], **more}


def spoiled(values: Any, row: int, entry: Any) -> Any:
    out = np.asarray(values).astype(object)
    out[row] = entry
    return out


# ------------------------------------------------------------ numbers


def test_exact_integers_of_any_size_are_numbers() -> None:
    c = [10**17 * 3**k for k in range(24)]
    y = planted(Power(), {"A": 1e-3, "a": 0.5}, {"C": np.asarray(c, dtype=float)}, 0.01, 1)[0]
    wanted = Power().fit({"C": np.asarray(c, dtype=float), "y": y})
    for form in (c, np.asarray(c, dtype=object), [Fraction(v) for v in c]):
        fit = Power().fit({"C": form, "y": y})
        assert fit.params == wanted.params
        assert fit.predict({"C": [10**30, 10**40]}).tolist() == wanted.predict({"C": [1e30, 1e40]}).tolist()
        assert fit.predict({"C": 10**30}, interval=0.9).low == wanted.predict({"C": 1e30}, interval=0.9).low
    with pytest.raises(DataError, match="C is not finite"):
        wanted.predict({"C": [10**400]})
    records = [{"C": a, "y": float(b)} for a, b in zip(c, y, strict=True)]
    assert Power().fit(Table.from_records(records)).params == wanted.params
    assert refit(Power().fit({"C": c, "y": y}).to_json()).params == wanted.params


def test_exact_integers_in_a_comparison_and_its_page() -> None:
    data = good(C=[int(c) * 10**9 for c in COMPUTE])
    fit = fit_table(data, "auto").to_json()
    assert all(isinstance(v, float) for v in fit["fit"]["columns"]["C"])
    assert compare(data, [Chinchilla()], by="C").scores[0].error < 0.01


@pytest.mark.parametrize("entry", [np.nan, None, "", np.inf, -1.0, 0.0, "n/a", "1,5", [1.0], True])
@pytest.mark.parametrize("column", ["N", "D", "loss", "C"])
def test_a_bad_cell_is_refused_in_every_column_that_enters(column: str, entry: Any) -> None:
    """C is no column of the law, but what predictions beyond the table are measured along."""
    data = good(C=COMPUTE.copy())
    data[column] = spoiled(data[column], 5, entry)
    for use in (
        lambda: Chinchilla().fit(data),
        lambda: fit_table(data, "chinchilla"),
        lambda: compare(data, [Chinchilla()]),
    ):
        with pytest.raises(DataError, match=rf"column {column}|{column} in row|column of compute"):
            use()


@pytest.mark.parametrize("entry", [np.nan, None, np.inf, -1.0, "n/a"])
@pytest.mark.parametrize("column", ["N", "D", "C"])
def test_a_bad_cell_is_refused_where_something_is_predicted(column: str, entry: Any) -> None:
    fit = Chinchilla().fit(good(C=COMPUTE))
    ahead = {"N": [1e10, 2e10], "D": [2e11, 4e11], "C": [1.2e22, 4.8e22]}
    ahead[column] = spoiled(ahead[column], 1, entry)
    for interval in (None, 0.9):
        with pytest.raises(DataError, match=rf"column {column} .*row"):
            fit.predict(ahead, interval=interval)


def test_how_far_ahead_is_counted_alike_on_both_sides() -> None:
    """Without C in one of the tables both count 6 N D: a C in another unit must not bring the future near."""
    far = {"N": [1e11], "D": [1e13]}
    wanted = Chinchilla().fit(good()).predict(far, interval=0.9)
    for unit in (1e-15, 1e3):
        found = Chinchilla().fit(good(C=unit * COMPUTE)).predict(far, interval=0.9)
        assert found.high == pytest.approx(wanted.high, rel=1e-6)
        other = Chinchilla().fit(good()).predict({**far, "C": [unit * 6e24]}, interval=0.9)
        assert other.low == pytest.approx(wanted.low, rel=1e-12)


def test_columns_that_do_not_enter_may_hold_anything() -> None:
    data = good(note=["x"] * 64, seconds=np.full(64, np.nan))
    assert Chinchilla().fit(data).params == Chinchilla().fit(good()).params


def test_masked_entries_are_missing() -> None:
    data = good()
    hidden = np.ma.masked_array(data["loss"], mask=np.arange(64) == 2)
    with pytest.raises(DataError, match=r"loss is not finite in 1 of 64 rows \(first: row 3\)"):
        Chinchilla().fit({**data, "loss": hidden})


def test_weights_are_looked_at() -> None:
    for weights, message in (
        (spoiled(np.ones(64), 3, np.nan), "must be finite"),
        (spoiled(np.ones(64), 3, "much"), "row 4 holds 'much'"),
        (np.zeros(64), "not all 0"),
        (np.ones(63), "differ in length"),
    ):
        with pytest.raises(DataError, match=message):
            Chinchilla().fit(good(), weights=weights)
    with pytest.raises(DataError, match="did you mean weight"):
        Chinchilla().fit(good(weight=np.ones(64)), weights="wieght")


# ------------------------------------------------------------ cuts


def test_cuts_are_made_along_numbers() -> None:
    data = good(arm=["a", "b"] * 32)
    for use in (
        lambda: compare(data, [Chinchilla()], by="arm"),
        lambda: fit_table(data, "auto", by="arm"),
    ):
        with pytest.raises(DataError, match="arm is not numeric"):
            use()
    for law in ("auto", "chinchilla"):
        with pytest.raises(DataError, match="no column 'amr'; did you mean arm"):
            fit_table(data, law, by="amr")
    with pytest.raises(DataError, match="column when is not finite"):
        compare(good(when=spoiled(COMPUTE, 0, None)), [Chinchilla()], by="when")
    with pytest.raises(UsageError, match="cutoffs"):
        compare(good(), [Chinchilla()], cutoffs=[np.nan])


# ------------------------------------------------------------ clusters


def noisy_runs(names: Any) -> dict[str, Any]:
    run = np.repeat(np.arange(16), 8)
    x = {"N": np.repeat(np.geomspace(2e7, 5e9, 16), 8), "D": np.tile(np.geomspace(5e8, 2e11, 8), 16)}
    y = planted(Chinchilla(), CHINCHILLA, x, 0.001, 1)[0]
    y = y * np.exp(0.01 * np.random.default_rng(0).standard_normal(16))[run]
    return {**x, "loss": y, "run": [names[i] for i in run]}


LONG = [str(1382016600011617600 + i) for i in range(16)]
VERSIONS = [f"3.{i}" for i in range(1, 9)] + [f"3.{i}0" for i in range(1, 9)]
PADDED = [*map(str, range(1, 9)), *(f"00{i}" for i in range(1, 9))]


@pytest.mark.parametrize(
    "names", [LONG, VERSIONS, PADDED, [f"{i}000e901" for i in range(1, 17)], [f"1_{i}" for i in range(16)]]
)
def test_clusters_of_a_file_keep_their_names(tmp_path: Path, names: list[str]) -> None:
    wanted = Chinchilla().fit(noisy_runs(range(16)), loss="l2", clusters="run").intervals()["alpha"]
    data = noisy_runs(names)
    rows = zip(*(data[name] for name in data), strict=True)
    (tmp_path / "t.csv").write_text("\n".join(",".join(map(str, row)) for row in [list(data), *rows]))
    fit = fit_table(tmp_path / "t.csv", "chinchilla", loss="l2", clusters="run").fit
    assert len(set(fit.table.texts("run"))) == 16
    found = fit.intervals()["alpha"]
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), rel=1e-9)
    again = refit(fit.to_json()).intervals()["alpha"]
    assert (again.low, again.high) == pytest.approx((wanted.low, wanted.high), rel=1e-9)


def test_clusters_that_cannot_serve_are_refused() -> None:
    data = noisy_runs(range(16))
    for clusters, message in (
        ("nope", "no column 'nope'"),
        (np.zeros(128), "names one cluster"),
        (spoiled(data["run"], 7, None), "names no cluster in row 8"),
        (spoiled(np.asarray(data["run"], dtype=float), 7, np.nan), "names no cluster in row 8"),
        (np.zeros(3), "differ in length"),
    ):
        with pytest.raises(DataError, match=message):
            Chinchilla().fit(data, clusters=clusters)
    steps = {"N": np.repeat([1e8, 2e8, 4e8], 4), "B": np.tile([64.0, 128, 256, 512], 3)}
    steps["steps"] = 1e4 + 1e6 / steps["B"] * (steps["N"] / 1e8)
    for option in ("clusters", "weights"):
        with pytest.raises(UsageError, match="makes one row of several"):
            CriticalBatch().fit({**steps, "run": np.arange(12) + 1}, **{option: "run"})


def test_few_clusters_have_wide_intervals_and_are_said() -> None:
    data = noisy_runs(range(16))
    few = np.asarray(data["run"]) // 4  # four clusters for five constants
    fit = Chinchilla().fit(data, loss="l2", clusters=few)
    assert "4 clusters for 5 constants: 0 degrees of freedom" in " ".join(fit.warnings)
    assert not any(i.identified for i in fit.intervals().values())
    with pytest.raises(DataError, match="4 clusters for 5 constants"):
        fit.bootstrap(20)
    some = Chinchilla().fit(data, loss="l2", clusters=np.asarray(data["run"]) // 2)
    assert "8 clusters for 5 constants: 3 degrees" in " ".join(some.warnings)
    many = Chinchilla().fit(data, loss="l2", clusters="run")
    assert many.warnings == ()
    assert many.degrees_of_freedom == 11
    assert "16 clusters of run" in many.report()


# ------------------------------------------------------------ too few rows


@pytest.mark.parametrize("rows", [4, 5])
def test_no_more_rows_than_constants_say_nothing_of_the_noise(rows: int) -> None:
    chosen = np.asarray([0, 9, 18, 35, 62])[:rows]
    fit = Chinchilla().fit({name: values[chosen] for name, values in good().items()})
    assert "no residual is left" in " ".join(fit.warnings)
    with pytest.raises(DataError, match=f"{rows} rows for 5 constants"):
        fit.bootstrap(50)
    for interval in fit.intervals().values():
        assert interval.verdict == "unidentified"
    for name, interval in fit.intervals().items():
        q = fit.law.parameters[fit.law.names.index(name)]
        assert (interval.low, interval.high) == pytest.approx((q.low, q.high))
    predicted = fit.predict({"N": [1e9], "D": [2e10]}, interval=0.9)
    assert np.isneginf(predicted.low).all()
    assert np.isposinf(predicted.high).all()
    assert "UNIDENTIFIED" in fit.report()
    page = fit_table({name: values[chosen] for name, values in good().items()}, "chinchilla").to_json()
    assert page["points"][0]["low"] is None


def test_resamplings_of_fewer_rows_than_constants_are_no_refits() -> None:
    x = {"C": np.geomspace(1e17, 1e21, 4)}
    y = planted(PowerFloor(), {"A": 300.0, "E": 1.7, "a": 0.12}, x, 0.003, 1)[0]
    samples = PowerFloor().fit({**x, "loss": y}).bootstrap(200)
    assert samples.failed > 50  # of 4 rows drawn, fewer than 3 are different in 58 of 100 drawings
    with pytest.raises(NumericsError, match="0 of 2 refits"):
        PowerFloor().fit({**x, "loss": y}).bootstrap(rows=np.asarray([[0, 0, 1, 1], [2, 2, 3, 3]]))


def test_a_bootstrap_is_asked_for_what_there_is() -> None:
    fit = Power().fit({"C": PLANTED["power"].x["C"], "y": targets("power", 1)[0]})
    for settings in (
        {"samples": 0},
        {"samples": 1},
        {"kind": "wild"},
        {"rows": np.asarray([[0, 99]])},
        {"rows": np.arange(9)},
    ):
        with pytest.raises(UsageError):
            fit.bootstrap(**settings)  # type: ignore[arg-type]


# ------------------------------------------------------------ foreign tables and numbers


@pytest.mark.parametrize("level", [95, 0.0, 1.0, -0.5, np.nan])
def test_a_level_is_a_share(level: float) -> None:
    fit = Power().fit({"C": PLANTED["power"].x["C"], "y": targets("power", 1)[0]})
    for use in (
        lambda: fit.intervals(level),
        lambda: fit.report(level),
        lambda: fit.predict({"C": [1e21]}, interval=level),
        lambda: fit.bootstrap(20).intervals(level),
        lambda: compare(good(), [Chinchilla()], level=level),
        lambda: fit_table(good(), "chinchilla", level=level),
        lambda: seeds_needed(0.5, 0.2, level),
    ):
        with pytest.raises(UsageError, match="level"):
            use()


@pytest.mark.parametrize(
    "settings",
    [{"fixed": {"E": np.nan}}, {"bounds": {"E": (np.nan, 3.0)}}, {"priors": {"E": (1.0, np.nan)}}, {"starts": 0}],
)
def test_settings_are_numbers(settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Chinchilla().fit(good(), **settings)


def sweeps(loss: Any = None) -> dict[str, Any]:
    """IsoFLOP curves around the optimum, as a dict."""
    x = grid(C=np.geomspace(1e19, 1e21, 4), M=np.geomspace(0.1, 10.0, 9))
    n = Chinchilla().optimum(CHINCHILLA, x["C"])[0] * x["M"]
    y = planted(Chinchilla(), CHINCHILLA, {"N": n, "D": x["C"] / 6 / n}, 0.0, 1)[0]
    return {"C": x["C"], "N": n, "loss": y if loss is None else loss}


def test_measured_budgets_are_grouped() -> None:
    wanted = optima(sweeps())
    assert wanted.rows == 4
    rng = np.random.default_rng(0)
    for size in (1e-3, 8e-3):
        measured = sweeps()
        measured["C"] = measured["C"] * (1.0 + size * rng.uniform(-1, 1, 36))
        found = optima(measured)
        assert found.rows == 4
        assert found["N"] == pytest.approx(wanted["N"], rel=1e-9)
        assert found["C"] == pytest.approx(wanted["C"], rel=size)
    apart = sweeps()
    apart["C"] = np.geomspace(1e19, 1e21, 36)  # no budgets at all: every row its own
    with pytest.raises(DataError, match="no budget has a minimum"):
        optima(apart)


def jittered(values: Any, seed: int, size: float = 3e-3) -> Any:
    return values * (1.0 + size * np.random.default_rng(seed).uniform(-1, 1, len(values)))


def test_measured_sizes_and_tokens_are_grouped_in_first_stages() -> None:
    cells = grid(N=np.geomspace(6e7, 1e9, 4), D=np.geomspace(2e9, 1e11, 4), lr=(1e-4, 1e-3, 1e-2))
    cells["loss"] = 2.0 + 0.1 * np.log10(cells["lr"] / np.where(cells["N"] > 3e8, 1e-4, 1e-3)) ** 2
    found = StepLaw().fit({**cells, "N": jittered(cells["N"], 0), "D": jittered(cells["D"], 1)})
    assert found.rows == 16
    assert found.params["n"] == pytest.approx(StepLaw().fit(cells).params["n"], abs=0.01)
    steps = grid(N=(1e8, 2e8, 4e8), B=(64.0, 128.0, 256.0, 512.0))
    steps["steps"] = 1e4 + 1e6 / steps["B"] * (steps["N"] / 1e8)
    found = CriticalBatch().fit({**steps, "N": jittered(steps["N"], 2)})
    assert found.table["B_crit"] == pytest.approx(CriticalBatch().fit(steps).table["B_crit"], rel=1e-9)


def test_measured_runs_are_paired_with_the_nearest() -> None:
    x = grid(N=np.geomspace(2e7, 5e9, 5), D=np.geomspace(5e8, 2e11, 5))
    two = {name: np.concatenate([jittered(v, 3), jittered(v, 4)]) for name, v in x.items()}
    loss = np.arange(50.0) + 1.0
    joined = pair({**two, "loss": loss, "data": ["a"] * 25 + ["b"] * 25}, "a", "b", within=0.01)
    assert (joined["loss"] - joined["loss0"]).tolist() == [25.0] * 25


def test_relative_errors_need_something_to_relate_to() -> None:
    data = {"C": np.geomspace(1e21, 1e25, 40), "score": np.linspace(0.0, 0.9, 40)}
    with pytest.raises(DataError, match="score is 0 in row 1"):
        compare(data, [Frontier()])


def test_the_target_of_a_named_law_is_its_own() -> None:
    with pytest.raises(UsageError, match=r"predicts loss.*loss=eval"):
        fit_table(good(eval=np.ones(64)), "chinchilla", target="eval")


def test_optima_take_any_table_and_look_at_it() -> None:
    data = sweeps()
    assert optima(data).records() == optima(Table(data)).records()
    for column in data:
        for entry in (np.nan, None, 0.0, "big"):
            with pytest.raises(DataError, match=f"column {column} .*row"):
                optima({**data, column: spoiled(data[column], 4, entry)})
    with pytest.raises(DataError, match="no column 'flops'"):
        optima(data, budget="flops")
    for settings in ({"method": "spline"}, {"edges": "guess"}):
        with pytest.raises(UsageError):
            optima(data, **settings)  # type: ignore[arg-type]


def test_pairs_take_any_table_and_look_at_it() -> None:
    data = {
        "data": ["007"] * 3 + ["7"] * 3,
        "N": [1e8, 2e8, 4e8] * 2,
        "D": [1e9, 2e9, 4e9] * 2,
        "loss": [3.0, 2.9, 2.8, 2.0, 1.9, 1.8],
    }
    assert pair(data, "007", "7").records() == pair(Table(data), "007", "7").records()
    assert pair(data, "007", "7")["loss0"].tolist() == [3.0, 2.9, 2.8]
    for column in ("N", "D", "loss"):
        for entry in (np.nan, None, -1.0, "big"):
            with pytest.raises(DataError, match=f"column {column} .*row"):
                pair({**data, column: spoiled(data[column], 4, entry)}, "007", "7")


def test_the_highest_rows_are_as_many_as_asked_for() -> None:
    data = good()
    data["loss"] = np.round(data["loss"], 1)
    for count in range(1, 12):
        fit = fit_table(data, "chinchilla", drop_highest=count).fit
        assert fit.rows == 64 - count
        assert np.sort(fit.table["loss"]).tolist() == np.sort(data["loss"])[:-count].tolist()
    with pytest.raises(DataError, match="loss is not finite"):
        fit_table({**data, "loss": spoiled(data["loss"], 0, np.nan)}, "chinchilla", drop_highest=1)


def test_planted_tables_are_asked_for_legally() -> None:
    table = Table({"N": SWEEP["N"], "D": SWEEP["D"]})
    assert simulate(Chinchilla(), CHINCHILLA, dict(table), 0.0).rows == 64
    for params, noise in (
        ({**CHINCHILLA, "gamma": 1.0}, 0.1),
        ({"A": 1.0}, 0.1),
        (CHINCHILLA, -1.0),
        (CHINCHILLA, np.nan),
    ):
        with pytest.raises(UsageError):
            simulate(Chinchilla(), params, table, noise)
    with pytest.raises(DataError, match="N is not finite"):
        simulate(Chinchilla(), CHINCHILLA, {"N": [np.nan, 1.0], "D": [1.0, 1.0]}, 0.0)


def test_scores_and_seeds_are_looked_at() -> None:
    scores = np.linspace(0, 1, 20)
    for bad in (np.nan, None, "n/a", np.inf):
        with pytest.raises(DataError):
            bimodality(spoiled(scores, 3, bad))
    for chance, width in ((1.2, 0.1), (0.5, 0.0), (np.nan, 0.1), (0.5, np.nan)):
        with pytest.raises(UsageError):
            seeds_needed(chance, width)


def test_first_stages_look_at_their_columns() -> None:
    cells = grid(N=np.geomspace(6e7, 1e9, 4), D=np.geomspace(2e9, 1e11, 4), lr=(1e-4, 1e-3, 1e-2))
    cells["loss"] = 2.0 + 0.1 * np.log10(cells["lr"] / np.where(cells["N"] > 3e8, 1e-4, 1e-3)) ** 2
    assert StepLaw().fit(cells).rows == 16
    failed = {**cells, "loss": np.where(cells["lr"] > 5e-3, np.nan, cells["loss"])}  # runs that diverged
    assert StepLaw().fit(failed).params == StepLaw().fit(cells).params
    with pytest.raises(DataError, match="no run of N"):
        StepLaw().fit({**cells, "loss": np.where(np.arange(48) < 3, np.nan, cells["loss"])})
    with pytest.raises(DataError, match="lr is not positive"):
        StepLaw().fit({**cells, "lr": np.where(cells["lr"] < 5e-3, -cells["lr"], cells["lr"])})
    with pytest.raises(DataError, match="loss is not numeric"):
        StepLaw().fit({**cells, "loss": spoiled(cells["loss"], 0, "diverged")})


def test_rows_that_a_law_leaves_out_take_their_weights_along() -> None:
    kaplan = {"A": 2e9, "B": 1.5e9, "E": 1.2, "alpha": 0.25, "beta": 0.35}
    source = planted(Kaplan(), kaplan, SWEEP, 0.0, 1)[0]
    data = {"loss0": source, "loss": 0.6 * (source - 1.2) ** 1.1 + 0.8}
    law = LossToLoss(E0=float(np.quantile(source, 0.1)), E1=0.8)
    assert law.fit(data, weights=np.ones(64), clusters=np.arange(64)).rows < 64


def test_damaged_fits_are_data_errors() -> None:
    stored = Power().fit({"C": PLANTED["power"].x["C"], "y": targets("power", 1)[0]}).to_json()
    for name in ("columns", "digest", "law", "settings", "objective"):
        for damage in (None, 3, [], "x", {}):
            with pytest.raises(IsoflopError):
                refit({**stored, name: damage})
        with pytest.raises(IsoflopError):
            refit({key: value for key, value in stored.items() if key != name})

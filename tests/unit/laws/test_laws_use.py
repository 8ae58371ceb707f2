"""What stands on fits: comparison by extrapolation, optima, pairs, sensitivity, the verb, stored fits."""

from __future__ import annotations

import importlib
import json
import pkgutil
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from isoflop import laws
from isoflop.core.errors import DataError, UsageError
from isoflop.core.table import Table
from isoflop.laws import (
    Chinchilla,
    Kaplan,
    LossToLoss,
    Power,
    compare,
    fit_table,
    optima,
    pair,
    refit,
    save,
    sensitivity,
)
from isoflop.laws.forms.average_n import mean_parameters
from isoflop.laws.forms.emergence import bimodality, seeds_needed
from isoflop.laws.forms.loss_to_loss import translate
from isoflop.laws.forms.qqt import best_pools, pool_error
from isoflop.laws.simulation import planted, simulate
from laws_planted import CHINCHILLA, SWEEP, grid


def sweep(noise: float = 0.002, seed: int = 0) -> Table:
    table = Table({"N": SWEEP["N"], "D": SWEEP["D"]})
    return simulate(Chinchilla(), CHINCHILLA, table, noise, seed=seed)


def test_the_law_that_made_the_data_extrapolates_best() -> None:
    result = compare(sweep(), [Kaplan(), Chinchilla()])
    assert result.best == "chinchilla"
    best, other = result.scores
    assert best.error < other.error
    assert other.p is not None
    assert 0.7 <= best.coverage <= 1.0
    assert best.interval_score >= best.width
    assert str(result).splitlines()[2].startswith("chinchilla")


def test_comparison_refuses_what_cannot_be_compared() -> None:
    with pytest.raises(UsageError, match="one target"):
        compare(sweep(), [Chinchilla(), Power()])
    with pytest.raises(DataError, match="could be compared"):
        compare(sweep().where(np.arange(4)), [Chinchilla()])


def test_forecasts_never_see_what_they_forecast() -> None:
    clean = sweep()
    c = clean["N"] * clean["D"]
    cut = float(np.quantile(6 * c, 0.6))
    spoiled = clean.with_columns(loss=np.where(6 * c > cut, clean["loss"] * 1.5, clean["loss"]))
    made = [compare(table, [Chinchilla()], cutoffs=[cut]).forecasts["chinchilla"][0] for table in (clean, spoiled)]
    assert (made[0].predicted == made[1].predicted).all()
    assert (made[0].high == made[1].high).all()


def test_optima_of_isoflops_follow_the_planted_law() -> None:
    budgets = np.geomspace(1e19, 1e22, 7)
    x = grid(C=budgets, M=np.geomspace(0.05, 20.0, 15))
    n_opt, _ = Chinchilla().optimum(CHINCHILLA, x["C"])
    n = n_opt * x["M"]
    y = planted(Chinchilla(), CHINCHILLA, {"N": n, "D": x["C"] / 6 / n}, 0.0, 1)[0]
    table = Table({"C": x["C"], "N": n, "loss": y})
    for method in ("akima", "parabola"):
        found = optima(table, method=method)  # type: ignore[arg-type]
        assert found.rows == 7
        exponent = Power().fit(found, columns={"y": "N"}).params["a"]
        assert exponent == pytest.approx(CHINCHILLA["beta"] / (CHINCHILLA["alpha"] + CHINCHILLA["beta"]), abs=0.01)
    with pytest.raises(DataError, match="no budget has a minimum"):
        optima(table.where(n < n_opt * 0.5))


def test_no_module_takes_the_place_of_a_public_name() -> None:
    """Importing a submodule sets an attribute of the package, which then hides a public name that is spelt alike."""
    for module in pkgutil.walk_packages(laws.__path__, f"{laws.__name__}."):
        importlib.import_module(module.name)
    assert [name for name in laws.__all__ if isinstance(getattr(laws, name), ModuleType)] == []


def test_transfer_between_losses() -> None:
    rng = np.random.default_rng(0)
    kaplan = {"A": 2e9, "B": 1.5e9, "E": 1.2, "alpha": 0.25, "beta": 0.35}
    rows: list[dict[str, Any]] = []
    source = planted(Kaplan(), kaplan, SWEEP, 0.0, 1)[0]
    for data, loss in (("web", source), ("code", 0.6 * (source - 1.2) ** 1.1 + 0.8)):
        noisy = loss * np.exp(0.001 * rng.standard_normal(64))
        rows += [
            {"data": data, "N": n, "D": d, "own": y}
            for n, d, y in zip(SWEEP["N"], SWEEP["D"], noisy.tolist(), strict=True)
        ]
    joined = pair(Table.from_records(rows), "web", "code", loss="own")
    assert joined.rows == 64
    fit = LossToLoss().fit(joined)
    assert fit.params["kappa"] == pytest.approx(1.1, rel=0.03)
    assert fit.params["K"] == pytest.approx(0.6, rel=0.05)
    moved = translate(kaplan, fit)
    p = {name: np.asarray([[value]]) for name, value in moved.items()}
    assert Kaplan().predict(p, SWEEP)[0] == pytest.approx(np.asarray(joined["loss"]), rel=0.02)
    with pytest.raises(DataError, match="did you mean code"):
        pair(Table.from_records(rows), "web", "cod", loss="own")
    assert refit(json.loads(json.dumps(fit.to_json()))).params == pytest.approx(fit.params, rel=1e-9)


def test_sensitivity_lists_every_choice() -> None:
    fit = Chinchilla().fit(sweep())
    variants = {v.choice: v for v in sensitivity(fit, counts={"0.8 of it": 0.8 * SWEEP["N"]})}
    assert {
        "as fitted",
        "delta 0.0001",
        "loss l2",
        "loss l1",
        "without the cheapest 25 %",
        "N counted as 0.8 of it",
    } <= set(variants)
    assert variants["N counted as 0.8 of it"].params["alpha"] == pytest.approx(fit.params["alpha"], rel=1e-4)
    assert variants["N counted as 0.8 of it"].params["A"] == pytest.approx(
        fit.params["A"] * 0.8 ** fit.params["alpha"], rel=1e-3
    )


def test_the_verb_reads_a_file_and_renames(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    sweep().rename({"N": "params", "D": "tokens"}).to_csv(path)
    columns = {"N": "params", "D": "tokens"}
    result = fit_table(path, "chinchilla", columns=columns)
    assert result.comparison is None
    assert "profile interval" in result.text
    auto = fit_table(path, "auto", columns=columns)
    assert auto.comparison is not None
    assert "chosen: chinchilla" in auto.text
    assert auto.fit.params == pytest.approx(result.fit.params)
    page = json.loads(json.dumps(auto.to_json(), allow_nan=False))
    assert page["comparison"]["scores"][0]["law"] == "chinchilla"
    assert len(page["points"]) == 64
    assert [row["times"] for row in page["ahead"]] == [3, 10, 30, 100]
    assert all(row["low"] < row["predicted"] < row["high"] for row in page["ahead"])
    curve = page["isoflops"][len(page["isoflops"]) // 2]
    n, _ = Chinchilla().optimum(auto.fit.params, np.asarray(curve["compute"]))
    assert curve["best_N"] == pytest.approx(float(n), rel=0.15)
    with pytest.raises(UsageError, match="did you mean chinchilla"):
        fit_table(path, "chinchila", columns=columns)
    with pytest.raises(UsageError, match="no law predicts"):
        fit_table(sweep().rename({"N": "big", "D": "long"}), "auto")
    by_steps = sweep().with_columns(flops=6 * SWEEP["N"] * SWEEP["D"])
    assert fit_table(by_steps, "power_floor", by="flops").fit.params["a"] > 0
    assert fit_table(sweep(), "chinchilla", drop_highest=5).fit.rows == 59
    with pytest.raises(UsageError, match="cannot drop 64"):
        fit_table(sweep(), "chinchilla", drop_highest=64)


def test_a_stored_fit_makes_itself_again_and_guards_its_rows(tmp_path: Path) -> None:
    fit = Chinchilla().fit(sweep(), delta=0.01, weights=np.linspace(0.5, 1.0, 64))
    save(fit, tmp_path / "fit.json")
    again = refit(tmp_path / "fit.json")
    assert again.objective == pytest.approx(fit.objective, rel=1e-12)
    assert again.settings.delta == 0.01
    stored = fit.to_json()
    stored["columns"]["loss"][0] *= 1.1
    with pytest.raises(DataError, match="digest"):
        refit(stored)
    with pytest.raises(DataError, match="not a stored fit"):
        refit({"format": "other"})


def test_mean_parameters_of_a_pruning_schedule() -> None:
    t = np.linspace(0, 1, 200001)
    n = np.interp(t, [0.25, 0.75], [1e9, 2e8])
    found = mean_parameters(np.asarray(1e9), np.asarray(2e8), np.asarray(0.25), np.asarray(0.75))
    assert float(found) == pytest.approx(float(n.mean()), rel=1e-5)


def test_more_pools_pay_with_more_compute() -> None:
    pool = np.full(40, 1.28e7)
    seen = np.geomspace(2e6, 6.4e8, 40)
    from isoflop.laws import Qqt

    fits = []
    for b, tau in ((0.30, 2.0), (0.27, 3.0), (0.20, 6.0)):
        y = pool_error(0.3, [b], [tau], 0.1, seen, pool)
        fits.append(Qqt().fit({"seen": seen, "pool": pool, "error": y}))
        assert fits[-1].params["b"] == pytest.approx(b, rel=1e-3)
    few, errors = best_pools(fits, 1.28e7, 1.28e7)
    many, _ = best_pools(fits, 1.28e9, 1.28e7)
    assert few == 1
    assert many > few
    assert errors[0] == pytest.approx(float(fits[0].predict({"seen": [1.28e7], "pool": [1.28e7]})[0]))


def test_two_modes_are_told_from_one() -> None:
    rng = np.random.default_rng(0)
    one = rng.normal(0.3, 0.05, 60)
    two = np.where(rng.random(60) < 0.4, rng.normal(0.9, 0.05, 60), one)
    assert bimodality(two)[1] < 0.02
    assert bimodality(one)[1] > 0.05
    assert seeds_needed(0.5, 0.2) == 97
    with pytest.raises(DataError, match="10 seeds"):
        bimodality(one[:5])

"""Laws whose constants come partly from another fit to the same table: what was asked for reaches every repetition."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from isoflop.core.table import Table
from isoflop.laws import Kaplan, LossToLoss
from isoflop.laws.extrapolate import inner_rate
from isoflop.laws.simulation import planted
from laws_planted import SWEEP


@pytest.fixture(scope="module")
def transfer() -> Table:
    """Losses on two data sets, of which the second is 0.6 (L0 - 1.2)^1.1 + 0.8."""
    rng = np.random.default_rng(0)
    source = planted(Kaplan(), {"A": 2e9, "B": 1.5e9, "E": 1.2, "alpha": 0.25, "beta": 0.35}, SWEEP, 0.0, 1)[0]
    target = 0.6 * (source - 1.2) ** 1.1 + 0.8
    noisy = {"loss0": source * np.exp(1e-3 * rng.standard_normal(64)), "loss": target}
    return Table({**SWEEP, **noisy})


def test_predicts_from_the_columns_that_it_was_fitted_to(transfer: Table) -> None:
    renamed: Any = transfer.rename({"loss0": "web"})
    fit = LossToLoss().fit(renamed, columns={"loss0": "web"})
    assert fit.params == LossToLoss().fit(transfer).params
    assert (fit.predict(renamed) == LossToLoss().fit(transfer).predict(transfer)).all()


def test_rows_without_weight_do_not_enter_the_first_stage(transfer: Table) -> None:
    absurd = Table({name: np.append(values, 1.5 * values[-1]) for name, values in transfer.items()})
    fit = LossToLoss().fit(absurd, weights=np.append(np.ones(64), 0.0))
    assert fit.params == pytest.approx(LossToLoss().fit(transfer).params, rel=1e-9)


def test_held_parameters_stay_held_in_the_forecasts_inside_the_table(transfer: Table) -> None:
    free, held = LossToLoss().fit(transfer), LossToLoss().fit(transfer, fixed={"kappa": 2.0})
    rates = inner_rate(free, 0.9), inner_rate(held, 0.9)
    assert None not in rates
    assert rates[1] > 10 * rates[0]  # type: ignore[operator]  # the wrong exponent is wrong in every forecast


def test_weights_and_clusters_given_as_arrays_reach_every_repetition(transfer: Table) -> None:
    columns = transfer.with_columns(precision=np.linspace(1.0, 3.0, 64), run=np.arange(64) // 2)
    by_name = LossToLoss().fit(columns, weights="precision", clusters="run")
    by_array = LossToLoss().fit(transfer, weights=columns["precision"], clusters=columns["run"])
    ahead = {"loss0": np.linspace(1.5, 3.0, 9)}
    assert by_array.predict(ahead, interval=0.9).low == pytest.approx(by_name.predict(ahead, interval=0.9).low)
    assert inner_rate(by_array, 0.9) == inner_rate(by_name, 0.9)

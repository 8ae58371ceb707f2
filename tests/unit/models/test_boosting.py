"""Boosted networks: closed forms, what never rises, what a shorter fit would have given, and what it costs."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from isoflop.core.errors import DataError, UsageError
from isoflop.ledger.audit import Audit
from isoflop.models.boosting import BoostedClassifier, BoostedNetwork, BoostedRegressor

Floats = npt.NDArray[np.float64]


def table(rows: int = 60, columns: int = 3, seed: int = 0) -> tuple[Floats, Floats]:
    draw = np.random.default_rng(seed)
    x = draw.standard_normal((rows, columns))
    return x, np.tanh(x @ draw.standard_normal((columns, 2))) + 0.1 * draw.standard_normal((rows, 2))


def labels(classes: int, rows: int = 60) -> tuple[Floats, Any]:
    x, y = table(rows)
    return x, np.digitize(y[:, 0], np.quantile(y[:, 0], np.arange(1, classes) / classes))


KINDS: dict[str, tuple[type[BoostedNetwork], tuple[Any, Any]]] = {
    "one target": (BoostedRegressor, (table()[0], table()[1][:, 0])),
    "two targets": (BoostedRegressor, table()),
    "two classes": (BoostedClassifier, labels(2)),
    "three classes": (BoostedClassifier, labels(3)),
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> tuple[type[BoostedNetwork], Any, Any]:
    cls, (x, y) = KINDS[request.param]
    return cls, x, y


# ---------------------------------------------------------------- closed forms


@given(rate=st.floats(0.1, 1.0), steps=st.integers(1, 5), seed=st.integers(0, 1000))
@example(rate=0.859375, steps=5, seed=344)
@settings(max_examples=6, deadline=None)
def test_linear_units_go_towards_least_squares_by_the_rate(rate: float, steps: int, seed: int) -> None:
    """Each step's unit is the least-squares fit of what is left, so 1 - (1 - rate)^steps of the way is gone."""
    x, y = table(seed=seed)
    design = np.column_stack([x, np.ones(len(x))])
    best = design @ np.linalg.lstsq(design, y[:, 0], rcond=None)[0]
    wanted = y[:, 0].mean() + (1 - (1 - rate) ** steps) * (best - y[:, 0].mean())
    fields: dict[str, Any] = {"activation": "identity", "alpha": 0.0, "subsample": 1.0, "tol": 1e-10, "max_iter": 5000}
    found = BoostedRegressor(steps, learning_rate=rate, random_state=seed, **fields).fit(x, y[:, 0])
    # L-BFGS ends where rounding hides what is left to gain beside the noise: up to 1.2e-5 short of the fit were seen
    np.testing.assert_allclose(found.predict(x), wanted, atol=1e-4)


@pytest.mark.parametrize("activation", ["logistic", "tanh", "identity"])
def test_a_steps_units_are_a_minimum_of_what_it_says(activation: Any) -> None:
    """Of the mean square to the pseudo-residuals and the squared weights; the gradient is taken by autograd."""
    x, y = table()
    fields: dict[str, Any] = {"subsample": 1.0, "alpha": 0.5, "tol": 1e-8, "max_iter": 5000}
    found = BoostedRegressor(2, 2, activation=activation, **fields).fit(x, y)
    begun = BoostedRegressor(2, 2, activation=activation, **fields)
    (w, b, v, c), _ = begun._fitted(torch.from_numpy(x), torch.from_numpy(y - y.mean(0)), _first_draw())
    given = [torch.nn.Parameter(each.clone()) for each in (w, b, v, c)]
    form = {"logistic": torch.sigmoid, "tanh": torch.tanh, "identity": lambda a: a}[activation]
    error = form(torch.from_numpy(x) @ given[0] + given[1]) @ given[2] + given[3] - torch.from_numpy(y - y.mean(0))
    value = (error.square().sum() + 0.5 * (given[0].square().sum() + given[2].square().sum())) / (2 * len(x))
    value.backward()
    assert max(float(p.grad.abs().max()) for p in given if p.grad is not None) < 1e-6
    np.testing.assert_allclose(found.coefs_[0], w.numpy(), rtol=1e-6)


def _first_draw() -> np.random.Generator:
    from isoflop.core.rng import Rng

    return Rng(0)("init").at(0)


@pytest.mark.parametrize("classes", [2, 3])
def test_residuals_and_curvature_are_the_losses_derivatives(classes: int) -> None:
    model = BoostedClassifier()
    targets = model._encoded(labels(classes)[1])
    output = torch.from_numpy(np.random.default_rng(1).standard_normal(targets.shape))
    residuals, curvature = model._residuals(targets, output)
    for place in [(0, 0), (7, -1)]:
        ends = []
        for way in (-1e-4, 0.0, 1e-4):
            moved = output.clone()
            moved[place] += way
            ends.append(model._loss(targets, moved) * len(targets))
        assert residuals[place] == pytest.approx((ends[0] - ends[2]) / 2e-4, abs=1e-5)
        assert curvature[place] == pytest.approx((ends[0] - 2 * ends[1] + ends[2]) / 1e-8, abs=1e-4)


def test_probabilities_are_those_of_the_losses() -> None:
    for classes in (2, 3):
        x, y = labels(classes)
        model = BoostedClassifier(2, max_iter=20).fit(x, y)
        p = model.predict_proba(x)
        assert p.shape == (60, classes)
        assert -np.log(p[np.arange(60), y]).mean() == pytest.approx(model.losses_[-1])
        shares = np.bincount(y) / 60
        np.testing.assert_allclose(model.truncate(0).predict_proba(x), np.tile(shares, (60, 1)), atol=1e-12)


# ---------------------------------------------------------------- what holds for every kind


@pytest.mark.parametrize("fields", [{}, {"units_per_step": 3}, {"subsample": 1.0, "learning_rate": 0.3}], ids=str)
def test_the_training_loss_never_rises(kind: tuple[type[BoostedNetwork], Any, Any], fields: dict[str, Any]) -> None:
    cls, x, y = kind
    model = cls(9, max_iter=30, **fields).fit(x, y)
    assert (np.diff(model.losses_) <= 0).all()
    assert model.losses_[-1] < 0.9 * model.losses_[0]


def test_the_first_units_are_what_a_shorter_fit_gives(kind: tuple[type[BoostedNetwork], Any, Any]) -> None:
    cls, x, y = kind
    whole, short = (cls(units, 2, max_iter=20).fit(x, y) for units in (8, 4))
    cut = whole.truncate(4)
    for ours, theirs in zip(cut.coefs_ + cut.intercepts_, short.coefs_ + short.intercepts_, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(cut.predict(x), short.predict(x))
    assert cut.units == 4
    assert whole.units == 8
    assert cut.cost_of(10).flops * 2 == whole.cost_of(10).flops


def test_it_is_the_network_that_its_weights_say(kind: tuple[type[BoostedNetwork], Any, Any]) -> None:
    cls, x, y = kind
    model = cls(4, 2, activation="tanh", max_iter=20).fit(x, y)
    wanted = np.tanh(x @ model.coefs_[0] + model.intercepts_[0]) @ model.coefs_[1] + model.intercepts_[1]
    np.testing.assert_allclose(model.decision_function(x), wanted, atol=1e-12)


def test_the_ledger_is_what_is_executed(kind: tuple[type[BoostedNetwork], Any, Any]) -> None:
    cls, x, y = kind
    with Audit() as audit:
        model = cls(4, 2, max_iter=20).fit(x, y)
    assert audit.total() == model.cost_.executed == model.cost_.flops
    with Audit() as audit:
        model.decision_function(x)
    assert audit.total() == model.cost_of(len(x)).executed


def test_a_fit_is_a_function_of_its_seed(kind: tuple[type[BoostedNetwork], Any, Any]) -> None:
    cls, x, y = kind
    before = np.random.get_state()[1]  # noqa: NPY002
    first, again, other = (cls(2, max_iter=10, random_state=seed).fit(x, y).decision_function(x) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002


# ---------------------------------------------------------------- refusals

X, Y = table()


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"units": 5, "units_per_step": 2}, "units: 5 must be a multiple of units_per_step = 2"),
        ({"units": 0}, "units: 0 must be a multiple of units_per_step = 1, and 1 at least"),
        ({"units_per_step": 0}, "units_per_step: 0 must be 1"),
        ({"subsample": 0.0}, r"subsample: 0.0 must lie in \(0, 1\]"),
        ({"learning_rate": 1.5}, "learning_rate: 1.5 must lie"),
        ({"activation": "gelu"}, "activation: 'gelu' must be one of logistic, tanh"),
        ({"alpha": float("nan")}, "alpha: nan must be 0"),
        ({"max_iter": 0}, "max_iter: 0 must be"),
    ],
)
def test_arguments_out_of_range_are_refused(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        BoostedRegressor(**fields).fit(X, Y)


@pytest.mark.parametrize(
    ("x", "y", "problem"),
    [
        (X[:10], Y, "10 rows of inputs, but 60 targets"),
        (X[:, 0], Y, "inputs have 1 dimensions"),
        (np.where(X > 2, np.nan, X), Y, "inputs are empty, or not all of them are finite"),
        (X, np.full_like(Y, np.inf), "targets are empty, or not all"),
        (X[:0], Y[:0], "are empty"),
        (X, ["a"] * 60, "targets are no numbers"),
        (X, Y[..., None], "targets have 3 dimensions"),
    ],
)
def test_tables_that_cannot_be_fitted_are_refused(x: Any, y: Any, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        BoostedRegressor(2).fit(x, y)


def test_what_was_not_learned_cannot_be_asked() -> None:
    with pytest.raises(DataError, match="of one class"):
        BoostedClassifier(2).fit(X, np.zeros(60))
    with pytest.raises(DataError, match="labels have 2 dimensions"):
        BoostedClassifier(2).fit(X, Y > 0)
    with pytest.raises(UsageError, match="learned nothing yet; call fit"):
        BoostedRegressor(2).predict(X)
    for flat in (BoostedRegressor(2, max_iter=5).fit(X, Y[:, 0]), BoostedClassifier(2, max_iter=5).fit(X, Y[:, 0] > 0)):
        with pytest.raises(DataError, match=r"targets of the shape \(60, 1\) for predictions of the shape \(60,\)"):
            flat.score(X, Y[:, :1] > 0)  # type: ignore[attr-defined]
    model = BoostedRegressor(6, 3, max_iter=5).fit(X, Y)
    with pytest.raises(DataError, match="2 columns, but the network was fitted to 3"):
        model.predict(X[:, :2])
    with pytest.raises(DataError, match="predict: inputs have 1 dimensions"):
        model.predict(X[0])
    with pytest.raises(DataError, match="score: targets are empty, or not all"):
        model.score(X, np.full_like(Y, np.nan))
    for units, nearest in [(4, 3), (9, 6), (-1, 0)]:
        with pytest.raises(UsageError, match=f"{units} units are no whole number of steps of 3 .*; use {nearest}"):
            model.truncate(units)


@pytest.mark.parametrize(
    "wrong",
    [np.arange(50) % 3 + 5, np.full(60, 5), np.arange(120).reshape(60, 2) + 5],
    ids=["rows", "one class", "columns"],
)
def test_a_fit_that_is_refused_leaves_what_was_learned(wrong: Any) -> None:
    model = BoostedClassifier(2, max_iter=5).fit(X, Y[:, 0] > 0)
    before = model.predict(X)
    with pytest.raises(DataError):
        model.fit(X, wrong)
    np.testing.assert_array_equal(model.predict(X), before)

"""Bad tables: refused with a reason, or warned about; never fitted in silence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from isoflop.core.errors import DataError, UsageError
from isoflop.core.table import Table
from isoflop.laws import Chinchilla, CriticalBatch, Law, Parameter, Power, exponent
from isoflop.laws.formula import Columns, Params
from laws_planted import SWEEP, targets


def good() -> dict[str, Any]:
    return {"N": SWEEP["N"].copy(), "D": SWEEP["D"].copy(), "loss": targets("chinchilla", 1)[0]}


def said(data: dict[str, Any], **settings: Any) -> str:
    return "\n".join(Chinchilla().fit(data, **settings).warnings)


def test_a_good_table_gets_no_warning() -> None:
    assert said(good()) == ""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": np.full(64, 2.0)}, "loss never varies"),
        ({"N": np.full(64, 1e9)}, "N never varies"),
        ({"loss": -targets("chinchilla", 1)[0]}, "its logarithm is fitted"),
        ({"loss": np.where(np.arange(64) == 5, np.nan, 2.0)}, r"not finite in 1 of 64 rows \(first: row 6\)"),
        ({"D": np.where(np.arange(64) == 0, np.inf, 1e9)}, "D is not finite"),
        ({"D": np.where(np.arange(64) == 3, -1.0, SWEEP["D"])}, "D is not positive in row 4"),
        ({"N": np.asarray(["big"] * 64, dtype=object)}, "N is not numeric"),
    ],
)
def test_refuses(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Chinchilla().fit({**good(), **change})


def test_too_few_points() -> None:
    data = good()
    with pytest.raises(DataError, match="2 rows cannot fix the 5 parameters"):
        Chinchilla().fit({name: values[:2] for name, values in data.items()})
    five = {name: values[[0, 9, 18, 35, 62]] for name, values in data.items()}
    assert "no residual is left" in said(five)


def test_missing_column_names_the_remedy() -> None:
    data = good()
    data["params"] = data.pop("N")
    with pytest.raises(DataError, match=r"needs column N.*N=<column>.*params"):
        Chinchilla().fit(data)
    assert Chinchilla().fit(data, columns={"N": "params"}).rows == 64
    with pytest.raises(DataError, match="did you mean params"):
        Chinchilla().fit(data, columns={"N": "parms"})


@pytest.mark.parametrize(("column", "factor"), [("N", 1e-6), ("N", 1e-9), ("D", 1e-9)])
def test_units_off_by_a_power_of_ten_are_suspected(column: str, factor: float) -> None:
    data = good()
    data[column] = data[column] * factor
    assert f"column {column}" in said(data)
    assert "suspected to be counted in" in said(data)


def test_compute_that_disagrees_by_a_million_is_said() -> None:
    data = good()
    assert "the units of C, N and D do not agree" in said({**data, "C": 6e6 * data["N"] * data["D"]})
    assert said({**data, "C": 6 * data["N"] * data["D"]}) == ""


def test_mixed_conventions_are_suspected() -> None:
    data = good()
    ratio = np.where(np.arange(64) % 3 == 0, 1.35, 1.0)
    assert "mixed conventions suspected" in said({**data, "C": 6 * data["N"] * data["D"] * ratio})


def test_duplicates_are_counted() -> None:
    data = {name: np.concatenate([values, values[:3]]) for name, values in good().items()}
    assert "3 duplicated rows" in said(data)


def test_perplexities_are_suspected() -> None:
    data = good()
    assert "suspected perplexities" in said({**data, "loss": np.exp(2.0 * data["loss"])})


@pytest.mark.parametrize(
    "settings",
    [
        {"delta": -1.0},
        {"tau": 1.5, "loss": "pinball"},
        {"fixed": {"gamma": 1.0}},
        {"bounds": {"alpha": (2.0, 1.0)}},
        {"detla": 1.0},
        {"delta": "small"},
        {"loss": 3},
    ],
)
def test_illegal_settings(settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Chinchilla().fit(good(), **settings)


def test_negative_weights() -> None:
    with pytest.raises(DataError, match="weights"):
        Chinchilla().fit(good(), weights=np.linspace(-1, 1, 64))


def test_no_constants_without_convergence() -> None:
    from dataclasses import replace

    fit = Chinchilla().fit(good())
    failed = replace(
        fit, certificate=replace(fit.certificate, converged=False), warnings=("the fit did NOT converge: do not use",)
    )
    assert "NOT CONVERGED" in repr(failed)
    text = failed.report()
    assert "did NOT converge" in text
    assert "alpha" not in text.split("condition")[1]
    assert failed.to_json()["intervals"] == {}


def test_critical_batch_needs_three_batches_a_size() -> None:
    table = {"N": np.asarray([1e8, 1e8]), "B": np.asarray([64.0, 128.0]), "steps": np.asarray([1e4, 6e3])}
    with pytest.raises(DataError, match="needs 3"):
        CriticalBatch().fit(table)


class Rational(Law):
    """A law of one's own: y = top / (1 + (C / half)^-a)."""

    columns = {"C": "FLOPs"}
    parameters = (
        Parameter("top", 1e-3, 1e3, log=True, linear=True),
        Parameter("half", 1e10, 1e30, tuple(np.geomspace(1e16, 1e24, 17)), log=True),
        exponent("a"),
    )

    def predict(self, p: Params, x: Columns) -> Any:
        return p["top"] / (1 + np.exp(-p["a"] * (np.log(x["C"]) - np.log(p["half"]))))


def test_a_law_of_ones_own_is_a_short_class() -> None:
    c = np.geomspace(1e17, 1e23, 30)
    fit = Rational().fit({"C": c, "loss": 3.0 / (1 + (c / 1e20) ** -0.4)})
    assert fit.params == pytest.approx({"top": 3.0, "half": 1e20, "a": 0.4}, rel=1e-4)
    assert fit.report().startswith("Rational")


class Careless(Power):
    """|a| has no complex derivative."""

    def predict(self, p: Params, x: Columns) -> Any:
        return p["A"] * np.exp(np.abs(p["a"]) * np.log(x["C"]))


class Real(Power):
    def predict(self, p: Params, x: Columns) -> Any:
        return np.logaddexp(p["A"], p["a"] * np.log(x["C"]))


@pytest.mark.parametrize("form", [Careless, Real])
def test_a_law_that_is_not_analytic_is_refused(form: type[Law]) -> None:
    c = np.geomspace(1e17, 1e20, 12)
    with pytest.raises(UsageError, match="analytic"):
        form().fit({"C": c, "y": 2.0 * c**0.3})


class Frame:
    """What pandas and polars offer; ``names_in`` "column_names" is what pyarrow does."""

    def __init__(self, data: dict[str, Any], names_in: str) -> None:
        self.data = data
        setattr(self, names_in, list(data))

    def __getitem__(self, name: str) -> Any:
        return self.data[name]


@pytest.mark.parametrize("names_in", ["columns", "column_names"])
def test_any_frame_is_a_table(names_in: str) -> None:
    expected = Chinchilla().fit(Table(good()))
    frame: Any = Frame(good(), names_in)
    fit = Chinchilla().fit(frame)
    assert fit.params == expected.params
    assert (fit.predict(frame) == expected.predict(good())).all()
    assert fit.predict({"N": 1e9, "D": 2e10}).shape == (1,)
    nothing: Any = 3.0
    with pytest.raises(DataError, match="float is not a table"):
        Chinchilla().fit(nothing)


def test_everything_fixed_is_an_evaluation() -> None:
    from laws_planted import CHINCHILLA

    fit = Chinchilla().fit(good(), fixed=CHINCHILLA)
    assert fit.params == pytest.approx(CHINCHILLA)
    assert fit.intervals() == {}
    assert "held" in fit.report()
    with pytest.raises(UsageError, match="not a fitted parameter"):
        fit.profile("A")


def test_an_exact_table_has_a_full_certificate() -> None:
    exact = Chinchilla().fit({**good(), "loss": targets("chinchilla", 1, noise=0.0)[0]})
    assert exact.certificate.share > 0.8
    assert exact.warnings == ()

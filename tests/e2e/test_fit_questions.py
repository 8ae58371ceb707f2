"""What people fit for: a prediction, the best runs of a sweep, columns under other names, a fit that is found again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from isoflop.cli.common import patience
from isoflop.cli.main import invoke
from isoflop.core.table import Table
from isoflop.laws import Chinchilla, fit_table
from isoflop.laws.simulation import simulate
from laws_planted import CHINCHILLA, SWEEP

RATES = (1e-3, 2e-3, 4e-3, 8e-3)


def planted(noise: float = 0.002, seed: int = 0) -> Table:
    return simulate(Chinchilla(), CHINCHILLA, Table({"N": SWEEP["N"], "D": SWEEP["D"]}), noise, seed=seed)


def sweep_of_rates(**names: str) -> Table:
    """The planted law, each size trained at four rates, of which the best differs from size to size."""
    best = planted()
    lr = np.tile(RATES, best.rows)
    rows = np.repeat(np.arange(best.rows), len(RATES))
    middle = 4e-3 * (best["N"][rows] / 1e8) ** -0.4
    loss = best["loss"][rows] * (1 + 0.04 * np.log(lr / middle) ** 2)
    return Table({"N": best["N"][rows], "D": best["D"][rows], "lr": lr, "loss": loss}).rename(names)


def out(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert invoke(list(arguments)) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def test_a_prediction_with_its_interval_is_printed_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    planted().to_csv(tmp_path / "t.csv")
    asked = ("--predict", "N=7e10,D=1.4e12", "--predict", "D=1e10, N=1e8")
    line = ("fit", str(tmp_path / "t.csv"), "--law", "chinchilla", *asked)
    told = out(capsys, *line)
    assert "loss at N=7e+10, D=1.4e+12: " in told
    assert "times the compute of the dearest row" in told
    rows = json.loads(out(capsys, *line, "--json", "--out", str(tmp_path / "runs" / "first")))["predictions"]
    truth = Chinchilla().predict(CHINCHILLA, {"N": np.array([7e10, 1e8]), "D": np.array([1.4e12, 1e10])})
    for row, value in zip(rows, truth, strict=True):
        assert row["low"] < row["predicted"] < row["high"]
        assert row["low"] < value < row["high"]
    narrow = json.loads(out(capsys, *line, "--level", "0.5", "--json"))["predictions"]
    assert narrow[0]["high"] - narrow[0]["low"] < rows[0]["high"] - rows[0]["low"]

    root = ("--root", str(tmp_path / "runs"))
    (listed,) = json.loads(out(capsys, "runs", *root, "fits", "--json"))
    assert (listed["name"], listed["law"], listed["source"], listed["rows"]) == ("first", "chinchilla", "t.csv", 64)
    assert "alpha=" in out(capsys, "runs", *root, "fits")
    assert "loss at N=7e+10" in out(capsys, "runs", "show", "first", *root)
    assert json.loads(out(capsys, "runs", "show", "first", *root, "--json"))["predictions"] == rows


@pytest.mark.parametrize(
    ("asked", "complaint"),
    [
        ("N=7e9", "D is missing; give N=...,D=..."),
        ("N=7e9,D=1e12,C=3", "chinchilla has no column 'C'"),
        ("N=big,D=1", "holds no number"),
        ("N=-1,D=1e9", "not positive"),
        ("7e9", "not of the form N=7e9,D=1e12"),
    ],
)
def test_a_question_that_cannot_be_answered_says_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], asked: str, complaint: str
) -> None:
    planted().to_csv(tmp_path / "t.csv")
    assert invoke(["fit", str(tmp_path / "t.csv"), "--law", "chinchilla", "--predict", asked]) in (2, 3)
    assert complaint in capsys.readouterr().err


def test_a_sweep_is_warned_of_and_its_best_rows_give_the_law(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep_of_rates(lr="peak_lr").to_csv(tmp_path / "t.csv")
    line = ("fit", str(tmp_path / "t.csv"), "--law", "chinchilla")
    assert "cells of equal N, D hold several rows, which differ with peak_lr" in (told := out(capsys, *line))
    assert "--best-of peak_lr keeps that one" in told
    told = out(capsys, *line, "--best-of", "peak_lr")
    assert "best of peak_lr: 64 of 256 rows are kept, one for each N, D; in " in told
    assert "the best peak_lr is the lowest or highest tried" in told
    assert "hold several rows" not in told
    best = json.loads(out(capsys, *line, "--best-of", "peak_lr", "--json"))["fit"]
    everything = json.loads(out(capsys, *line, "--json"))["fit"]
    assert abs(best["params"]["alpha"] - CHINCHILLA["alpha"]) < abs(everything["params"]["alpha"] - CHINCHILLA["alpha"])
    assert any("a sweep" in warning for warning in everything["warnings"])
    assert invoke([*line, "--best-of", "rate"]) == 2
    assert invoke([*line, "--best-of", "N,D"]) == 2


@pytest.mark.parametrize("count", [2, 5, pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.parametrize("noise", [0.002, 0.01])
def test_repetitions_are_no_sweep(count: int, noise: float) -> None:
    rows = np.repeat(np.arange(64), count)
    for seed in range(5):
        draw = np.random.default_rng([seed, count])
        best = planted(0.0)
        loss = best["loss"][rows] * np.exp(noise * draw.normal(size=len(rows)))
        number = {"seed": np.tile(np.arange(count), 64)}
        table = Table({"N": best["N"][rows], "D": best["D"][rows], "loss": loss, **number})
        warnings = fit_table(table, "chinchilla").fit.warnings
        assert not any("a sweep" in warning for warning in warnings), seed


def test_the_published_sweep_is_known_as_one(shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = str(shared / "data" / "scaling" / "misfitting" / "final_losses_lr_sweep.csv")
    assert "differ with peak_lr" in out(capsys, "fit", table, "--law", "chinchilla")
    assert "best of peak_lr: 81 of 261" in out(capsys, "fit", table, "--law", "chinchilla", "--best-of", "peak_lr")


def test_a_diverged_row_of_a_sweep_is_never_the_best() -> None:
    table = sweep_of_rates()
    loss = np.where(table["lr"] == RATES[-1], np.nan, table["loss"])
    found = fit_table(table.with_columns(loss=loss), "chinchilla", best_of=["lr"])
    assert found.fit.rows == 64


@pytest.mark.parametrize(
    ("names", "guessed"),
    [
        ({"N": "params", "D": "tokens", "loss": "train_loss"}, "N=params, D=tokens, loss=train_loss"),
        ({"N": "N_Params", "D": "training tokens", "loss": "Val-Loss"}, "N=N_Params, D=training tokens, loss=Val-Loss"),
    ],
)
def test_columns_with_usual_names_are_guessed_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], names: dict[str, str], guessed: str
) -> None:
    planted().rename(names).to_csv(tmp_path / "t.csv")
    line = ("fit", str(tmp_path / "t.csv"), "--law", "chinchilla")
    assert f"columns guessed: {guessed}" in out(capsys, *line)
    plain = fit_table(planted(), "chinchilla").fit.params
    assert json.loads(out(capsys, *line, "--json"))["fit"]["params"] == pytest.approx(plain)
    told = out(capsys, *line, "--predict", f"{names['N']}=1e9,{names['D']}=1e11")
    assert "loss at N=1e+09, D=1e+11" in told


def test_a_column_that_two_could_stand_for_is_proposed_and_not_guessed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = planted().rename({"loss": "val_loss"})
    table.with_columns(train_loss=table["val_loss"]).to_csv(tmp_path / "t.csv")
    for law in ("chinchilla", "auto"):
        assert invoke(["fit", str(tmp_path / "t.csv"), "--law", law]) in (2, 3)
        assert "--columns loss=val_loss or train_loss" in capsys.readouterr().err
    table.with_columns(loss=2 * table["val_loss"]).to_csv(tmp_path / "t.csv")
    assert "guessed" not in out(capsys, "fit", str(tmp_path / "t.csv"), "--law", "chinchilla")


def test_settings_where_twice_and_the_outlier_rule_reach_the_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = planted()
    half = np.arange(64) % 2
    rows.with_columns(half=half, third=np.arange(64) % 3, run=np.arange(64) // 4).to_csv(tmp_path / "t.csv")
    line = ("fit", str(tmp_path / "t.csv"), "--law", "chinchilla", "--json")
    given = ("--settings", "loss=l2,delta=0.01", "--settings", "clusters=run,drop_highest=5,fixed.E=1.7")
    found = json.loads(out(capsys, *line, *given))
    settings = found["fit"]["settings"]
    assert (settings["loss"], settings["delta"], settings["clusters"], settings["fixed"]) == (
        "l2", 0.01, "run", {"E": 1.7},
    )  # fmt: skip
    assert len(found["points"]) == 59
    found = json.loads(out(capsys, *line, "--where", "half=1", "--where", "third=2"))
    assert len(found["points"]) == len([i for i in range(64) if i % 2 == 1 and i % 3 == 2])
    assert invoke([*line, "--settings", "starts=0"]) == 2
    assert "starts: should be at least 1" in capsys.readouterr().err
    for wrong in ("los=l2", "delta=small", "fixed=3", "columns=x", "loss=l3", "fixed.zeta=1"):
        assert invoke([*line, "--settings", wrong]) == 2, wrong


def test_what_takes_long_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    import time

    def lines(seconds: float) -> Sequence[str]:
        with patience("fitting 64 rows", after=0.05, every=0.05):
            time.sleep(seconds)
        return capsys.readouterr().err.splitlines()

    assert lines(0.0) == []
    assert lines(0.3)[0].startswith("fitting 64 rows: ")

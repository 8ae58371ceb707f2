"""The verb plan: what it prints, what it refuses, from a table and from a stored fit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from isoflop.cli.main import invoke
from isoflop.core.errors import UsageError
from isoflop.core.table import Table
from isoflop.laws import Chinchilla, simulate
from isoflop.laws.forms.qqt import pool_error
from isoflop.laws.verb import fit_table
from laws_planted import CHINCHILLA, PLANTED, SWEEP, law


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    table = Table({"N": SWEEP["N"], "D": SWEEP["D"]})
    simulate(Chinchilla(), CHINCHILLA, table, 0.003).to_csv("runs.csv")
    return "runs.csv"


def test_a_table_and_its_stored_fit_give_one_plan(runs: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["fit", runs, "--law", "chinchilla", "--out", "fitted"]) == 0
    capsys.readouterr()
    said = []
    for source in ([runs, "--law", "chinchilla"], ["fitted/fit.json"], ["fitted"]):
        assert invoke(["plan", *source, "--compute", "1e21", "--json"]) == 0
        said.append(json.loads(capsys.readouterr().out))
    assert said[0] == said[1] == said[2]
    first = said[0]["answers"][0]
    n, d = Chinchilla().optimum(CHINCHILLA, 1e21)  # type: ignore[arg-type]
    figures = {figure["name"]: figure for figure in first["figures"]}
    assert figures["N"]["low"] < n < figures["N"]["high"]
    assert figures["D"]["low"] < d < figures["D"]["high"]
    assert first["assumption"]
    assert first["beyond"]


def test_options_may_come_first(runs: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["plan", "--loss", "2.4", "--law", "chinchilla", runs]) == 0
    assert "cheapest run of loss 2.4" in capsys.readouterr().out
    assert invoke(["plan", runs, "--loss", "2.4", "--law", "chinchilla", "--requests", "1e9x800"]) == 0
    assert "of the whole life" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--compute", "1e30"], 2, "outside the fitted rows"),
        (["--loss", "1.5"], 2, "floor"),
        (["--unique-tokens", "1e9"], 2, "repeated tokens"),
        (["--loss", "2.4", "--requests", "many"], 2, "is no life"),
        ([], 2, "nothing is asked"),
        (["--compute", "many"], 2, "--compute"),
        (["--columns", "N=size", "--compute", "1e21"], 3, "no column 'size'"),
    ],
)
def test_what_cannot_be_answered_says_why(
    runs: str, capsys: pytest.CaptureFixture[str], options: list[str], code: int, message: str
) -> None:
    assert invoke(["plan", runs, "--law", "chinchilla", *options]) == code
    assert message in capsys.readouterr().err


def test_a_plan_fits_the_terminal(
    runs: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sentences go on in the next line; which laws have no plan is said without its place twice."""
    asked = ["plan", runs, "--law", "chinchilla", "--compute", "1e21"]
    assert invoke(asked) == 0
    whole = capsys.readouterr().out
    monkeypatch.setenv("COLUMNS", "80")
    assert invoke(asked) == 0
    shown = capsys.readouterr().out
    assert max(map(len, whole.splitlines())) > 80 >= max(map(len, shown.splitlines()))
    assert shown.split() == whole.split()
    assert ": plan: " not in shown


def test_a_stored_fit_takes_no_options_of_tables(runs: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["plan", "fit.json", "--law", "kaplan", "--compute", "1e21"]) == 2
    assert "has its law and rows" in capsys.readouterr().err


def write(name: str, law_name: str) -> None:
    form, case = law(law_name), PLANTED[law_name]
    Table(simulate(form, case.params, case.x, case.noise)).to_csv(name)


@pytest.mark.parametrize(
    ("law_name", "command", "said"),
    [
        ("critical_batch", "batch t.csv --params 1e9", "critical batch"),
        ("step_law", "rate t.csv --params 5e8 --tokens 3e10 --columns optimum=optimum", "learning rate"),
        ("qat_fraction", "qat t.csv --params 5e8 --tokens 1e11 --bits 4", "switch at token"),
        ("average_n", "sparse t.csv --compute 1e21 --params 8e8", "N at the start"),
        ("frontier", "score t.csv --compute 1e24 --names C", "stay below"),
    ],
)
def test_each_question_has_its_command(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    law_name: str,
    command: str,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write("t.csv", law_name)
    assert invoke(["plan", *command.split()]) == 0, capsys.readouterr().err
    assert said in capsys.readouterr().out
    assert invoke(["plan", *command.split(), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["figures"]


def test_a_law_with_fields_of_its_own_is_fitted_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Small batches are critical against small ones, and a sweep of batches says which one is best."""
    monkeypatch.chdir(tmp_path)
    rows = [{"N": n, "B": b, "steps": 200 * (1 + 1e-4 * n / b)} for n in (1e5, 2e5, 4e5) for b in (4, 8, 16, 32)]
    Table.from_records(rows).to_csv("sizes.csv")
    assert invoke(["fit", "sizes.csv", "--law", '{name = "critical_batch", base = 4}', "--out", "fitted"]) == 0
    capsys.readouterr()
    assert invoke(["plan", "batch", "fitted", "--params", "2e5", "--json"]) == 0
    found = {each["name"]: each["value"] for each in json.loads(capsys.readouterr().out)["figures"]}
    assert found["critical batch"] == pytest.approx(0.2 * 20 + 1.2 * 4, rel=0.1)  # overhead b / a + (1 + overhead) base
    grid = [(n, d, b) for n in (1e6, 1e7) for d in (1e8, 1e9, 1e10) for b in (8.0, 16.0, 32.0, 64.0, 128.0)]
    swept = [{"N": n, "D": d, "batch": b, "loss": 3 + 0.1 * np.log(b / (d / 1e8) ** 0.5 / 16) ** 2} for n, d, b in grid]
    Table.from_records(swept).to_csv("swept.csv")
    assert invoke(["fit", "swept.csv", "--law", '{name = "step_law", of = "batch"}', "--out", "batches"]) == 0
    capsys.readouterr()
    assert invoke(["plan", "rate", "batches", "--params", "3e6", "--tokens", "1e9"]) == 0
    assert "batch" in capsys.readouterr().out
    assert invoke(["fit", "sizes.csv", "--law", '{name = "critical_batch", bas = 4}']) == 2
    assert "did you mean base?" in capsys.readouterr().err
    with pytest.raises(UsageError, match="has its fields already"):
        fit_table("sizes.csv", '{name = "critical_batch", base = 4}', fields={"base": 8})


def test_pools_and_transfer_have_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    seen = np.geomspace(2e6, 1.28e8, 15)
    rows = []
    for name, b, tau in (("best", 0.30, 2.0), ("rest", 0.20, 6.0)):
        error = pool_error(0.3, [b], [tau], 0.1, seen, np.full(15, 1.28e7))
        both = zip(seen, error, strict=True)
        rows += [{"quality": name, "seen": n, "pool": 1.28e7, "error": y} for n, y in both]
    Table.from_records(rows).to_csv("pools.csv")
    assert invoke(["plan", "pools", "pools.csv", "--seen", "5e7", "--pool", "1.28e7", "--group", "quality"]) == 0
    assert "pools to keep" in capsys.readouterr().out
    write("source.csv", "kaplan")
    n = np.geomspace(3e7, 2e9, 9)
    runs = Table(simulate(law("kaplan"), PLANTED["kaplan"].params, {"N": n, "D": 20 * n}, 0.001))
    runs.with_columns(loss=0.9 * runs["loss"]).to_csv("few.csv")
    assert invoke(["plan", "transfer", "source.csv", "few.csv", "--compute", "1e21"]) == 0
    assert "best N and D" in capsys.readouterr().out


def test_next_runs_and_a_rehearsal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write("pool.csv", "chinchilla")
    goal = Table(simulate(Chinchilla(), CHINCHILLA, {"N": [2e10], "D": [4e11]}, 0.0))
    goal.to_csv("target.csv")
    Table({name: Table.read_csv("pool.csv")[name] for name in ("N", "D")}).to_csv("new.csv")
    assert invoke(["plan", "next", "new.csv", "--budget", ".05", "--target", "target.csv"]) == 0
    assert "(pilot)" in capsys.readouterr().out
    goal = Table(simulate(Chinchilla(), CHINCHILLA, {"N": [2e10, 3e10], "D": [4e11, 8e11]}, 0.0))
    goal.to_csv("target.csv")
    assert (
        invoke(["plan", "rehearse", "pool.csv", "--budget", ".05", "--step", ".5", "--target", "target.csv", "--json"])
        == 0
    )
    assert json.loads(capsys.readouterr().out)["error"] < 0.05
    assert invoke(["plan", "next", "new.csv", "--budget", ".05", "--target", "target.csv", "--cost", "dollars"]) == 3
    assert "no column 'dollars'" in capsys.readouterr().err

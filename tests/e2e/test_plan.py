"""The verb plan: what it prints, what it refuses, from a table and from a stored fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from isoflop.cli.main import invoke
from isoflop.core.table import Table
from isoflop.laws import Chinchilla, simulate
from laws_planted import CHINCHILLA, SWEEP


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
    for source in ([runs, "--law", "chinchilla"], ["fitted/fit.json"]):
        assert invoke(["plan", *source, "--compute", "1e21", "--json"]) == 0
        said.append(json.loads(capsys.readouterr().out))
    assert said[0] == said[1]
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


def test_a_stored_fit_takes_no_options_of_tables(runs: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["plan", "fit.json", "--law", "kaplan", "--compute", "1e21"]) == 2
    assert "has its law and rows" in capsys.readouterr().err

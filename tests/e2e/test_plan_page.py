"""A plan's page: what it draws is what the plan says; what it cannot draw is refused before anything is written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from isoflop.cli.main import invoke
from isoflop.core.table import Table
from isoflop.laws import Chinchilla, Fit, simulate
from isoflop.laws.plan.ask import plan
from isoflop.laws.plan.sketch import sketch
from isoflop.report.page import plan_page
from isoflop.report.plans import figures
from laws_planted import CHINCHILLA, PLANTED, SWEEP, law


@pytest.fixture(scope="module")
def fit() -> Fit:
    table = Table({"N": SWEEP["N"], "D": SWEEP["D"]})
    return Chinchilla().fit(simulate(Chinchilla(), CHINCHILLA, table, 0.003))


def test_the_frontier_passes_through_the_plan_and_slices_are_least_there(fit: Fit) -> None:
    answered = plan(fit, compute=1e21)
    size, tokens = answered["N"].value, answered["D"].value
    made = sketch(fit, answered, size, tokens)
    chosen, last = made.runs[0], made.frontier[-1]
    assert chosen["compute"] == pytest.approx(1e21)
    assert last["compute"] == pytest.approx(max(1e21, max(row["compute"] or 0 for row in made.points)))
    assert (chosen["loss"], chosen["low"], chosen["high"]) == pytest.approx(
        (answered["loss"].value, answered["loss"].low, answered["loss"].high)
    )
    losses = [row["loss"] for row in made.frontier]
    assert losses == sorted(losses, reverse=True)  # type: ignore[type-var]
    for curve in made.slices:
        assert curve.best_N == pytest.approx(curve.N[int(np.argmin(curve.loss))], rel=0.1)  # type: ignore[arg-type]
    assert made.slices[-1].best_N == pytest.approx(size, rel=1e-3)
    assert min(run["loss"] for run in made.runs[:3]) == chosen["loss"]  # type: ignore[type-var]


def test_what_comes_from_outside_is_escaped(fit: Fit) -> None:
    answered = plan(fit, params=1e9, tokens=2e10)
    made = sketch(fit, answered, 1e9, 2e10)
    assert set(figures(made)) == {"frontier", "slices"}
    answers = [{**made.answers[0], "question": "<script>x</script>"}]
    html = plan_page(made.model_copy(update={"answers": answers, "law": "<b>"}), {})
    assert "<script>x" not in html
    assert "<b>" not in html


def test_the_verb_writes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    table = Table({"N": SWEEP["N"], "D": SWEEP["D"]})
    simulate(Chinchilla(), CHINCHILLA, table, 0.003).to_csv("runs.csv")
    asked = ["plan", "runs.csv", "--law", "chinchilla", "--page", "plan.html"]
    assert invoke([*asked, "--params", "1e9", "--tokens", "2e10", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["page"] == "plan.html"
    page = Path("plan.html").read_text()
    for words in ("The frontier", "IsoFLOP slices", "as planned", "N x 2, equal C", "Assumes"):
        assert words in page


def test_a_law_of_repeats_is_refused_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    case = PLANTED["data_constrained"]
    Table(simulate(law("data_constrained"), case.params, case.x, case.noise)).to_csv("t.csv")
    size, tokens = (str(float(np.median(case.x[name]))) for name in ("N", "D"))
    written = ["--page", "plan.html", "--recipe", "planned.toml"]
    asked = ["--law", "data_constrained", "--params", size, "--tokens", tokens]
    assert invoke(["plan", "t.csv", *asked, *written]) == 2
    assert "fresh tokens" in capsys.readouterr().err
    assert not any(Path(name).exists() for name in ("plan.html", "planned.toml"))

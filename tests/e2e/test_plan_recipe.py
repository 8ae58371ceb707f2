"""A plan's recipe: written, and run by the trainer as it stands."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from isoflop.cli.main import invoke
from isoflop.core.recipe import Recipe
from isoflop.core.roles import numel
from isoflop.core.table import Table
from isoflop.laws import Chinchilla, simulate
from laws_planted import CHINCHILLA, PLANTED, SWEEP, law

RUN = ["--params", "3e8", "--tokens", "1e10"]
PLAN = ["plan", "runs.csv", "--law", "chinchilla", "--recipe", "planned.toml"]


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    table = Table({"N": SWEEP["N"], "D": SWEEP["D"]})
    simulate(Chinchilla(), CHINCHILLA, table, 0.003).to_csv("runs.csv")


def test_the_trainer_runs_what_is_planned(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke([*PLAN, "--compute", "1e20", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    size, tokens = (said["answers"][0]["figures"][i]["value"] for i in (0, 1))
    recipe = Recipe.load("planned.toml")
    assert recipe.budget.tokens == round(tokens)
    count = numel(recipe.policy.all_shapes(recipe.vocab_size))
    assert count == said["recipe"]["parameters"]
    assert abs(count / size - 1) < 0.03
    assert any("train.batch" in note for note in said["recipe"]["notes"])
    assert invoke(["train", "planned.toml", "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parameters"] == count


@pytest.mark.parametrize("asked", [["--loss", "2.6"], ["--params", "3e8", "--tokens", "1e10"]])
def test_every_question_that_names_a_run_gives_a_recipe(asked: list[str]) -> None:
    assert invoke([*PLAN, *asked]) == 0
    recipe = Recipe.load("planned.toml")
    if "--params" in asked:
        assert recipe.budget.tokens == 10**10
        assert abs(numel(recipe.policy.all_shapes(recipe.vocab_size)) / 3e8 - 1) < 0.03


def test_overrides_go_before_the_plan() -> None:
    assert invoke([*PLAN, *RUN, "tokenizer.vocab_size=2048", "model.tied=true", "budget.flops=1e20"]) == 0
    recipe = Recipe.load("planned.toml")
    assert (recipe.tokenizer.vocabulary, recipe.model.tied) == (2048, True)  # type: ignore[attr-defined]
    assert recipe.budget.flops == 1e20


def test_a_batch_law_gives_batch_and_rate(capsys: pytest.CaptureFixture[str]) -> None:
    case = PLANTED["critical_batch"]
    Table(simulate(law("critical_batch"), case.params, case.x, case.noise)).to_csv("batch.csv")
    rate = np.asarray([[n, d, lr] for n in (1e8, 1e9) for d in (1e9, 1e10) for lr in np.geomspace(1e-4, 1e-2, 21)])
    best = 1.79 * rate[:, 0] ** -0.713 * rate[:, 1] ** 0.307
    loss = 2 + 0.01 * np.log(rate[:, 2] / best) ** 2
    sweep = {"N": rate[:, 0], "D": rate[:, 1], "lr": rate[:, 2], "loss": loss}
    extra = 1 + 1e-3 * np.random.default_rng(0).random(len(loss))
    Table({**sweep, "loss": loss * extra}).to_csv("rate.csv")
    given = ["--batch-law", "batch.csv", "--batch-law", "rate.csv"]
    assert invoke([*PLAN, "--params", "5e8", "--tokens", "5e9", *given]) == 0, capsys.readouterr().err
    recipe = Recipe.load("planned.toml")
    assert recipe.optimizer.lr == pytest.approx(1.79 * 5e8**-0.713 * 5e9**0.307, rel=0.4)
    wanted = float(law("critical_batch").predict(case.params, {"N": 5e8}))  # type: ignore[arg-type, dict-item]
    assert recipe.train.batch * recipe.train.accumulate == pytest.approx(wanted, rel=0.3)
    said = capsys.readouterr().out
    assert "learning rate" in said
    assert "optimizer.lr" not in said
    asked = ["plan", "runs.csv", "--law", "chinchilla", "--compute", "1e20", *given]
    assert invoke(asked) == 0, "a plan says them without a recipe, too"
    said = capsys.readouterr().out
    assert "batch and learning rate of N = " in said
    assert "(rate.csv)" in said
    assert "(batch.csv)" in said


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ([*RUN, "--batch-law", "runs.csv"], 3, "no batch law"),
        ([*RUN, "model.layer=3"], 2, "layer"),
        (["--params", "1.5e7", "--tokens", "3e8", "tokenizer.vocab_size=1000000"], 2, "smaller vocabulary"),
    ],
)
def test_what_gives_no_recipe_says_why_and_writes_none(
    capsys: pytest.CaptureFixture[str], options: list[str], code: int, message: str
) -> None:
    assert invoke([*PLAN, *options]) == code
    assert message in capsys.readouterr().err
    assert not Path("planned.toml").exists()


def test_an_older_recipe_is_not_overwritten(capsys: pytest.CaptureFixture[str]) -> None:
    Path("planned.toml").write_text("mine")
    assert invoke([*PLAN, *RUN]) == 2
    assert "exists already" in capsys.readouterr().err
    assert Path("planned.toml").read_text() == "mine"
    assert invoke(["plan", "runs.csv", *RUN, "model.tied=true"]) == 2
    assert "--recipe" in capsys.readouterr().err


def test_hours_come_with_the_plan(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["plan", "runs.csv", "--law", "chinchilla"]
    assert invoke([*asked, "--loss", "2.6", "--gpus", "8xH200", "--mfu", ".4", "--json"]) == 0
    answers = json.loads(capsys.readouterr().out)["answers"]
    spent = next(f for answer in answers for f in answer["figures"] if f["name"] == "C")
    hours = next(f for f in answers[-1]["figures"] if f["name"] == "hours")
    for end in ("low", "value", "high"):
        assert hours[end] == pytest.approx(spent[end] / (8 * 989e12 * 0.4) / 3600)
    assert invoke([*asked, "--loss", "2.6", "--mfu", ".4"]) == 2
    assert "--gpus" in capsys.readouterr().err

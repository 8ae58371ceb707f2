"""A tiny study from text to multiplier, trained for real by worker processes, twice."""

from __future__ import annotations

import shutil

import pytest

from isoflop.core.table import Table
from isoflop.errors import RecipeError
from isoflop.lab.compare import compare
from isoflop.lab.study import Study
from isoflop.lab.workers import LocalWorkers
from isoflop.store.results import StudyResult

STUDY = """
name = "tiny"
baseline = "adamw"
seeds = [1, 2, 3]

[recipe]
source = { name = "hmm", text_bytes = 20000, heldout_bytes = 1000 }
tokenizer = "bytes"
model = { name = "transformer", d_model = 16, layers = 1, mixer = { name = "attention", heads = 2 } }
train = { batch = 2, length = 16, evaluations = 2 }

[ladder]
axis = "steps"
rungs = [5, 10, 20]

[arms.muon]
overrides = ["optimizer=muon"]

[tuning]
seeds = [101]
points = 3
extensions = 1
"""


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    lines: list[str] = []
    return compare(Study.from_toml(STUDY), root, workers=2, progress=lines.append), root, lines


def test_a_study_ends_with_a_stored_result(first):
    result, root, lines = first
    assert StudyResult.read(root / "tiny" / "study.json") == result
    assert Table.read_csv(root / "tiny" / "points.csv").rows == 2 * len(result.runs)
    evaluated = [run for run in result.runs if run.role == "evaluation"]
    assert len(evaluated) == 3 * 3 + 3
    assert len(lines) == len(result.runs)
    for run in evaluated:
        assert run.end.step == [5, 10, 20][run.rung]
        assert run.end.tokens == run.end.step * 32
        assert run.cpu_seconds > 0
    assert {m.axis for m in result.multipliers} == {"flops", "hardware_flops", "steps", "tokens", "text_bytes"}
    assert "workers = 1" in result.refusals["seconds"]
    assert result.headline.startswith("muon ")


def test_the_bill_is_the_sum_of_the_runs_ledgers(first):
    result, _, _ = first
    trained = sum(run.end.flops for run in result.runs if run.role == "evaluation")
    assert result.bill["train"]["flops"] + result.bill["optimizer"]["flops"] == trained
    assert result.bill["tuning"]["flops"] == sum(run.end.flops for run in result.runs if run.role == "tuning")
    assert result.bill["evaluation"]["flops"] > 0


def test_the_corpus_and_the_longest_runs_epochs_are_stated(first):
    result, _, _ = first
    amounts = result.corpus["train"].values()
    assert result.corpus["epochs"] == pytest.approx(640 / sum(amount["tokens"] for amount in amounts))
    assert len(result.corpus["fingerprint"]) == 64


def test_a_second_time_no_run_is_repeated(first, monkeypatch):
    result, root, _ = first
    monkeypatch.setattr(LocalWorkers, "_start", lambda self: pytest.fail("a worker was started"))
    again = compare(Study.from_toml(STUDY), root, workers=2)
    assert all(run.reused for run in again.runs)
    assert again.multipliers == result.multipliers
    assert again.bill == result.bill


def test_only_what_is_missing_is_made_again_with_the_same_outcome(first):
    result, root, _ = first
    lost = next(run for run in result.runs if run.role == "evaluation" and run.arm == "muon")
    shutil.rmtree(root / lost.run)
    again = compare(Study.from_toml(STUDY), root, workers=1)
    assert [run.run for run in again.runs if not run.reused] == [lost.run]
    (made,) = [run for run in again.runs if run.run == lost.run]
    assert [point.value for point in made.curve] == [point.value for point in lost.curve]
    assert made.exclusive


def test_a_study_that_is_not_fair_starts_nothing(tmp_path):
    with pytest.raises(RecipeError, match="also an evaluation seed"):
        compare(Study.from_toml(STUDY, "tuning.seeds=[1]"), tmp_path)
    assert not list(tmp_path.iterdir())

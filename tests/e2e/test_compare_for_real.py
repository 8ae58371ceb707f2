"""A tiny study from text to multiplier, trained for real by worker processes, twice."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from isoflop.cli.main import invoke
from isoflop.core.files import write_json
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


def test_what_made_the_runs_is_theirs_and_not_of_the_process_that_reports(first):
    result, root, _ = first
    ((key, made),) = result.environments.items()
    assert {run.environment for run in result.runs} == {key}
    assert (made["device"], made["threads"], made["determinism"]) == ("cpu", 1, "exact")
    assert not {"device", "threads", "determinism"} & result.environment.keys()
    run = next(run for run in result.runs if run.role == "evaluation")
    write_json(root / run.run / "environment.json", {**made, "commit": "c" * 40, "determinism": "stat"})
    try:
        again = compare(Study.from_toml(STUDY), root, workers=1)
    finally:
        write_json(root / run.run / "environment.json", made)
    assert len(again.environments) == 2
    (note,) = [note for note in again.notes if "not all runs were made alike: commit" in note]
    assert "cccccccccccc (1 run)" in note
    assert any("determinism exact" in note and "stat (1 run)" in note for note in again.notes)


def test_a_study_is_made_again_from_the_definition_beside_its_result(first):
    result, root, _ = first
    file = root / "tiny" / "study.toml"
    assert file.read_text() == result.definition
    assert Study.load(file) == Study.from_toml(STUDY)


def test_another_study_of_the_name_takes_no_result_away(first, monkeypatch, capsys, tmp_path):
    """Fewer seeds make no new run here; only where the results lie is at stake."""
    _, root, _ = first
    monkeypatch.setattr(LocalWorkers, "_start", lambda self: pytest.fail("a worker was started"))
    kept = (root / "tiny" / "study.json").read_bytes()
    assert invoke(["compare", str(root / "tiny" / "study.toml"), "title=Another", "--root", str(root), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    other = Path(found["report"]).parent
    assert other != root / "tiny"
    assert (root / "tiny" / "study.json").read_bytes() == kept
    assert StudyResult.read(other / "study.json").title == "Another"
    lines: list[str] = []
    again = compare(Study.load(other / "study.toml"), root, progress=lines.append)
    assert again.home(root) == other
    assert lines[-1] == (
        f"{root / 'tiny'} holds another study of this name, which differs in title: this one's result lies in {other}"
    )
    assert invoke(["runs", "studies", "--root", str(root)]) == 0
    listed = capsys.readouterr().out.split()
    assert {"tiny", other.name} <= set(listed)
    shutil.rmtree(other)
    old = again.model_copy(update={"definition": ""})  # as results were stored that knew of none
    old.write(tmp_path / again.name / "study.json")
    assert again.home(tmp_path) == tmp_path / again.name


def test_a_study_that_is_not_fair_starts_nothing(tmp_path):
    with pytest.raises(RecipeError, match="also an evaluation seed"):
        compare(Study.from_toml(STUDY, "tuning.seeds=[1]"), tmp_path)
    assert not list(tmp_path.iterdir())

"""Runs and a study of the first release (commit 7379f0b) are found, reused and resumed by today's code.

``store_0_1_0.tar.xz`` was written by that commit: a run of ``RUN`` stopped at step 13 of 24, and the finished runs of
``STUDY`` (their checkpoints left out) with its result.
"""

import shutil
import tarfile
from pathlib import Path

import pytest
import torch

from isoflop.core.recipe import Recipe
from isoflop.lab.compare import compare
from isoflop.lab.study import Study
from isoflop.store.results import StudyResult
from isoflop.store.run import Run
from isoflop.train.restore import trained
from isoflop.train.run import train

RUN = """
name = "stopped"
source = { name = "hmm", text_bytes = 20000, heldout_bytes = 1000 }
tokenizer = "bytes"
model = { name = "transformer", d_model = 8, layers = 1, mixer = { name = "attention", heads = 2 } }
optimizer = "adamw"
averaging = "ema"
budget = { steps = 24 }
train = { batch = 2, length = 16, evaluations = 2, checkpoints = 2 }
"""

VERSIONS = {"muon": 2}
"""Arms whose part computes other numbers today: their runs are made again."""


@pytest.fixture
def store(tmp_path: Path) -> Path:
    with tarfile.open(Path(__file__).parent / "store_0_1_0.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "store"


def test_a_stopped_run_is_found_and_resumed(store):
    recipe = Recipe.from_toml(RUN)
    found = Run.find(store, recipe)
    assert found is not None
    assert found.status.step == 13
    resumed = train(recipe, store)
    assert resumed.path == found.path
    assert [event["step"] for event in resumed.events("resumed")] == [13]
    whole = train(recipe, store.parent / "whole")
    ours, theirs = (trained(run).model.state_dict() for run in (resumed, whole))
    for name, weight in ours.items():  # another machine's kernels made the first 13 steps, so not to the last bit
        assert torch.allclose(weight, theirs[name], atol=1e-4), name
    assert resumed.result["value"] == pytest.approx(whole.result["value"], abs=1e-3)


def test_a_study_goes_on_with_the_runs_that_there_are(store):
    study = Study.load(store / "tiny" / "study.toml")
    before = StudyResult.read(store / "tiny" / "study.json")
    lost = next(run for run in before.runs if run.role == "evaluation" and run.rung == 0)
    shutil.rmtree(store / Path(lost.run).name)
    after = compare(study, store)
    assert [run.arm for run in after.runs] == [run.arm for run in before.runs]
    for old, new in zip(before.runs, after.runs, strict=True):
        same = old.arm not in VERSIONS
        assert (new.recipe_hash == old.recipe_hash) == same
        assert new.reused == (same and old.recipe_hash != lost.recipe_hash)
        assert old.end.value == pytest.approx(new.end.value, abs=0 if new.reused else 1e-3 if same else 2e-2)

"""`isoflop eval --harness` without the harness at hand: what is said, and how results that are kept are shown."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from isoflop.cli.main import invoke
from isoflop.core.recipe import Recipe
from isoflop.store.harness import HARNESS, HarnessMetric, HarnessResult, latest, store, stored
from isoflop.store.run import Run

Tiny = Callable[..., Path]
YES = """
task: yes
dataset_path: json
dataset_kwargs: {data_files: {test: rows.jsonl}}
test_split: test
output_type: loglikelihood
doc_to_text: "{{text}}"
doc_to_target: "{{text}}"
"""


@pytest.fixture
def run(tiny: Tiny, tmp_path: Path) -> Run:
    """One that was not trained."""
    return Run.open(tmp_path / "runs", Recipe.load(tiny()))


def test_a_missing_harness_names_its_extra(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    (tmp_path / "yes.yaml").write_text(YES.replace("yes", "'yes'"))
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}')
    asked = ["eval", str(run.path), "--harness", str(tmp_path / "yes.yaml")]
    assert invoke(asked) == 2
    assert "--harness: needs the package datasets; pip install 'isoflop[eval]'" in capsys.readouterr().err
    assert invoke([*asked, *asked[2:]]) == 2
    assert "two files have tasks of one name" in capsys.readouterr().err
    assert invoke([*asked, "--text", str(tmp_path / "rows.jsonl")]) == 2
    assert invoke(["eval", str(run.path), "--limit", "3"]) == 2
    assert not (run.path / HARNESS).exists()


def test_kept_results_are_shown_the_newest_of_each_task(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    def result(task: str, value: float, **more: int) -> HarnessResult:
        metrics = {"acc": HarnessMetric(value=value, stderr=0.01, higher_is_better=True)}
        same = {"form": "multiple_choice", "samples": 40, "lm_eval": "0.4.13", "digest": "a"}
        return HarnessResult.model_validate({**same, "task": task, "metrics": metrics, **more})

    file = run.path / HARNESS
    store(file, [result("sums", 0.25), result("capitals", 0.125)])
    store(file, [result("sums", 0.75), result("sums", 0.5, limit=10)])
    assert len(stored(file)) == 4
    assert [each.metrics["acc"].value for each in latest(stored(file))] == [0.75, 0.125, 0.5]
    assert invoke(["runs", "show", str(run.path)]) == 0
    shown = capsys.readouterr().out
    assert "0.7500" in shown
    assert "0.2500" not in shown
    assert "lm_eval 0.4.13" in shown
    assert invoke(["runs", "show", str(run.path), "--json"]) == 0
    assert [each["task"] for each in json.loads(capsys.readouterr().out)["tasks"]] == ["sums", "capitals", "sums"]


def test_a_number_that_is_not_finite_is_kept_as_none() -> None:
    assert HarnessMetric(value=float("inf"), stderr=float("nan")) == HarnessMetric(value=None, stderr=None)

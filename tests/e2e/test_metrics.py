"""What a value is (its unit, which way is better, whether it is a bound) goes with it from the metric to the page."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from isoflop.cli.main import invoke
from isoflop.core.files import write_json
from isoflop.core.recipe import Recipe
from isoflop.lab.compare import compare
from isoflop.lab.study import Study
from isoflop.store.results import StudyResult
from isoflop.store.run import Run
from isoflop.train.run import train

Tiny = Callable[..., Path]
CASES = {
    "accuracy": ('metrics=["accuracy", "bits_per_byte"]', "objective=next_token", "accuracy", True, False, ""),
    "exact": ('metrics=["bits_per_byte"]', "objective=next_token", "bits per byte", False, False, ""),
    "bound": ('metrics=["bits_per_byte"]', "objective={name='masked', samples=2}", "bits per byte", False, True, "<= "),
}


@pytest.mark.parametrize("case", CASES)
def test_a_value_is_read_everywhere_as_its_metric_means_it(
    case: str, tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics, objective, unit, higher, bound, sign = CASES[case]
    path, root = str(tiny(metrics, objective, "budget.steps=4")), ("--root", str(tmp_path / "runs"))
    assert invoke(["train", path, *root]) == 0
    said = capsys.readouterr()
    assert f": {sign}" in said.out
    assert f" {unit} after 4 steps" in said.out
    assert f" {unit}  " in said.err, "the progress line"
    assert ("<= " in said.err) == bound

    (directory,) = (path.parent for path in (tmp_path / "runs").glob("*/resolved.json"))
    run = Run.read(directory)
    meant = {"unit": unit, "higher_is_better": higher, "bound": bound}
    for stored in (run.result, *run.metrics("evaluation")):
        assert meant.items() <= stored.items()
    for record in run.metrics("evaluation"):
        first, *others = record["metrics"].values()
        assert {**meant, "value": record["value"], "domains": record["domains"]}.items() <= first.items()
        assert [other["unit"] for other in others] == ["bits per byte"] * len(others)

    assert invoke(["eval", "tiny", *root]) == 0
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert f": {sign}{run.result['value']:.3f}"[:-2] in lines[0].replace("<= ", sign)
    assert f" {unit}, after step 4" in lines[0]
    assert lines[1].endswith(" tokens" if higher else " bytes")
    assert lines[1].count("<= ") == int(bound)
    how = "an upper bound, the mean over 2 random masks of each window"
    assert (lines[-1].startswith(f"  {how}; ") and " FLOPs, +- is one standard error" in lines[-1]) == bound
    assert all((how in str(record["metrics"])) == bound for record in run.metrics("evaluation"))
    assert invoke(["eval", "tiny", *root, "--json"]) == 0
    (told, *_) = json.loads(capsys.readouterr().out).values()
    assert meant.items() <= told.items()

    assert invoke(["runs", *root]) == 0
    assert unit in (table := capsys.readouterr().out)
    assert (sign in table) or not sign
    assert invoke(["runs", "show", "tiny", *root]) == 0
    assert unit in (table := capsys.readouterr().out)
    assert ("<= " in table) == bound
    assert invoke(["report", "tiny", *root, "--json"]) == 0
    page = Path(json.loads(capsys.readouterr().out)["report"]).read_text()
    assert f"{'higher' if higher else 'lower'} is better" in page
    assert ("&lt;= " in page) == bound


def test_a_run_of_old_that_says_no_unit_reads_as_before(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(Recipe.load(tiny("budget.steps=4")), tmp_path / "runs")
    new = {"unit", "higher_is_better", "bound", "n"}
    write_json(run.path / "result.json", {k: v for k, v in run.result.items() if k not in new})
    records = [{k: v for k, v in record.items() if k not in new} for record in run.metrics()]
    for record in records:
        if record["kind"] == "evaluation":
            record["metrics"] = {"bits_per_byte": record["value"]}
    (run.path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    root = ("--root", str(tmp_path / "runs"))
    for words, said in (
        (["train", str(tiny("budget.steps=4"))], f"{run.result['value']:.4f} bits per byte after 4 steps"),
        (["runs"], "bits per byte"),
        (["runs", "show", "tiny"], "bits per byte"),
        (["report", "tiny"], "report.html"),
    ):
        assert invoke([*words, *root]) == 0
        assert said in capsys.readouterr().out
    assert "held-out bits per byte, lower is better" in (run.path / "report.html").read_text()


STUDY = """
name = "rising"
baseline = "adamw"
seeds = [1, 2, 3]

[recipe]
source = { name = "hmm", text_bytes = 20000, heldout_bytes = 4000 }
tokenizer = "bytes"
model = { name = "transformer", d_model = 16, layers = 1, mixer = { name = "attention", heads = 2 } }
metrics = ["accuracy", "bits_per_byte"]
train = { batch = 4, length = 16, evaluations = 2 }

[ladder]
axis = "steps"
rungs = [6, 12, 24]

[arms.muon]
overrides = ["optimizer=muon"]

[tuning]
seeds = [101]
points = 3
extensions = 0
top_points = 2
"""


def test_a_study_is_ranked_by_accuracy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """More is better in tuning, in the ladder and on the page, with every number trained for real."""
    lines: list[str] = []
    result = compare(Study.from_toml(STUDY), tmp_path, workers=1, progress=lines.append)
    assert StudyResult.read(tmp_path / "rising" / "study.json") == result
    assert (result.unit, result.higher_is_better) == ("accuracy", True)
    for tuning in result.tunings:
        quality = dict(zip(tuning.values, tuning.quality, strict=True))
        assert quality[tuning.chosen] == max(value for value in quality.values() if value is not None)
    ends = {(run.arm, run.rung, run.seed): run.end for run in result.runs if run.role == "evaluation"}
    assert all(end is not None and 0 <= end.value <= 1 and not end.bound for end in ends.values())
    (row,) = [m for m in result.multipliers if m.axis == "tokens" and not m.all_in]
    for seed, m in zip((1, 2, 3), row.per_seed, strict=True):
        arm, rungs = ends["muon", 0, seed], [ends["adamw", rung, seed] for rung in range(3)]
        if m is not None:  # within the ladder: the baseline needs more where its lowest rung is worse
            assert (m > 1) == (arm.value > rungs[0].value) or arm.value == rungs[0].value
    assert " accuracy (" in lines[0]
    assert "accuracy" in result.headline or "on flops" in result.headline
    assert "bits per byte" not in result.headline
    assert invoke(["report", "rising", "--root", str(tmp_path)]) == 0
    page = (tmp_path / "rising" / "report.html").read_text()
    assert "held-out accuracy, higher is better" in page
    assert "lower is better" not in page
    assert "Accuracy at equal cost" in page

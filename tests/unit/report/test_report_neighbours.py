"""Quality by size of a run and its cuts, and values by length with every seed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from isoflop.compress.transforms.slice import SlicePart
from isoflop.core.files import write_json
from isoflop.core.recipe import Recipe
from isoflop.core.roles import numel
from isoflop.pipelines.compressed_runs import compress_to_run
from isoflop.report.neighbours import ALIKE, APART, MIXED, WHOLE, of_run, of_study
from isoflop.report.page import write_report
from isoflop.store.run import Run
from isoflop.train.run import train
from report_sample import make_run_directory, make_study

SHAPE = {"name": "transformer", "d_model": 16, "layers": 2}


def recipe(name: str, feed_forward: dict[str, Any], seed: int = 1) -> Recipe:
    return Recipe.from_json(
        {
            "name": name,
            "seed": seed,
            "source": {"name": "hmm", "text_bytes": 20_000, "heldout_bytes": 500},
            "model": {**SHAPE, "feed_forward": feed_forward},
            "budget": {"steps": 2},
            "train": {"batch": 2, "length": 16, "evaluations": 1},
        }
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A nested run, three cuts of it, two runs of a cut's width, and one of another width."""
    root = tmp_path_factory.mktemp("sizes")
    nested = train(recipe("nested", {"name": "nested", "widths": [8, 40]}), root, name="nested")
    for name, widths in (("narrow", 8), ("mixed", (8, 40))):
        compress_to_run(nested, [SlicePart(hidden_widths=widths)], root, name)  # type: ignore[arg-type]
    for name, hidden, seed in (("apart-1", 8, 1), ("apart-2", 8, 2), ("other", 24, 1)):
        train(recipe(name, {"name": "swiglu", "hidden": hidden}, seed), root, name=name)
    return root


def value(root: Path, name: str) -> float:
    return float(Run.read(root / name).result["value"])


def test_a_run_stands_beside_its_cuts_and_what_was_trained_apart(root: Path) -> None:
    axes, family = of_run(root / "nested")["size"]
    narrow, mixed, whole = (
        float(numel(Run.read(root / name).recipe.model.shapes(257))) for name in ("narrow", "mixed", "nested")
    )
    assert family == {
        WHOLE: {whole: [value(root, "nested")]},
        ALIKE: {narrow: [value(root, "narrow")]},
        MIXED: {mixed: [value(root, "mixed")]},
        APART: {narrow: [value(root, "apart-1"), value(root, "apart-2")]},
    }
    assert narrow < mixed < whole
    assert axes.up == "held-out bits per byte, lower is better"
    page = write_report(root / "nested").read_text(encoding="utf-8")
    assert "Held-out bits per byte by parameters" in page
    assert "cut, layers mixed" in page


def test_a_run_without_cuts_has_no_such_chart(root: Path) -> None:
    assert of_run(root / "other") == {}
    assert of_run(root / "apart-1") == {}


def directories(root: Path, seeds: int = 3) -> list[Path]:
    """Runs that differ in their seeds, with accuracies by length at two evaluations."""
    made = []
    for seed in range(seeds):
        place = make_run_directory(root, f"parity-{seed:012d}")
        run = Run.read(place)
        write_json(place / "resolved.json", {**run.resolved, "seed": seed})
        lines = (place / "metrics.jsonl").read_text().splitlines()
        kept = {"unit": "of puzzles right", "higher_is_better": True, "value": 0.5, "stderr": 0.1, "bound": False}
        (place / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
        for step, share in ((50, 0.5), (100, 0.9)):
            lengths = {"accuracy_by_length": {**kept, "domains": {"16": 1.0, "128": share - seed / 10}}}
            words = {"solved": {**kept, "domains": {"easy": 1.0, "16": 0.5}}}
            run.record("evaluation", step=step, flops=step * 1e9, tokens=step, **kept, metrics=lengths | words)
        made.append(place)
    return made


def test_values_by_length_are_drawn_with_every_seed(tmp_path: Path) -> None:
    first, *_ = directories(tmp_path)
    found = of_run(first)
    assert list(found) == ["accuracy_by_length"], "where some domains are no numbers, none is a length"
    axes, family = found["accuracy_by_length"]
    assert (axes.across, axes.up) == ("length", "of puzzles right, higher is better")
    assert family["after 100 steps"] == {16.0: [1.0] * 3, 128.0: pytest.approx([0.9, 0.8, 0.7])}
    assert family["after 50 steps"][128.0] == pytest.approx([0.5, 0.4, 0.3])


def test_a_study_draws_its_arms_where_their_runs_still_lie(tmp_path: Path) -> None:
    places = directories(tmp_path)
    study = make_study()
    ended = [run for run in study.runs if run.role == "evaluation" and run.status == "done"]
    arm = ended[0].arm
    top = max(run.rung for run in ended if run.arm == arm)
    own = [run for run in ended if run.arm == arm and run.rung == top][:3]
    renamed = [run.model_copy(update={"run": place.name}) for run, place in zip(own, places, strict=False)]
    found = of_study(study.model_copy(update={"runs": renamed}), tmp_path / "study")
    _, family = found["accuracy_by_length"]
    assert list(family) == [arm]
    assert len(family[arm][128.0]) == len(renamed)
    assert of_study(study, tmp_path / "elsewhere" / "study") == {}

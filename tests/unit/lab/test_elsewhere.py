"""Runs that are made elsewhere: written out as recipes, brought back whole, refused where anything is not as it was."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from isoflop.cli.main import invoke
from isoflop.core.errors import DataError, UsageError
from isoflop.core.recipe import Recipe
from isoflop.lab.elsewhere import export_runs, import_runs, missing_runs
from isoflop.lab.study import Study
from isoflop.store.run import Run
from isoflop.train.run import train
from study_toys import TOML


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another machine's root: two of the study's first runs, trained from what was written out."""
    place = tmp_path_factory.mktemp("elsewhere")
    study = Study.from_toml(TOML)
    export_runs(study, place / "runs", place / "out")
    assert len(list((place / "out").glob("*.toml"))) == len(
        json.loads((place / "out" / "runs.json").read_text())["runs"]
    )
    for file in sorted((place / "out").glob("*.toml"))[:2]:
        train(Recipe.load(file), place / "made", threads=1)
    return place / "made"


def runs(root: Path) -> list[Path]:
    return sorted(path.parent for path in root.glob("*/result.json"))


def test_what_comes_back_counts_and_is_not_asked_for_again(tiny: Study, made: Path, tmp_path: Path) -> None:
    wanted = missing_runs(tiny, tmp_path)
    assert len(wanted) == 12  # four rates of two arms, and the baseline's four at its top
    found = import_runs(tiny, tmp_path, made)
    assert (len(found.kept), found.refused, found.other) == (2, {}, [])
    assert {job.recipe.hash for job in wanted} - {job.recipe.hash for job in missing_runs(tiny, tmp_path)} == {
        Run.read(place).hash for place in found.kept
    }
    again = import_runs(tiny, tmp_path, made)
    assert (again.kept, len(again.other)) == ([], 2)
    assert [Run.read(place).result for place in runs(tmp_path)] == [Run.read(place).result for place in runs(made)]


def changed(file: str, key: str, by: float) -> None:
    tree = json.loads(Path(file).read_text())
    tree[key] += by
    Path(file).write_text(json.dumps(tree))


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda run: changed(run / "result.json", "value", 0.1), "tells two values of value"),
        (lambda run: changed(run / "result.json", "flops", 1), "tells two values of flops"),
        (lambda run: shutil.rmtree(run / "checkpoints"), "has no checkpoint"),
        (lambda run: (run / "ledger.json").write_text("{}"), "disagree on FLOPs"),
        (lambda run: flipped(next(run.glob("checkpoints/*/model.safetensors"))), "digest differs"),
        (lambda run: (run / "metrics.jsonl").unlink(), "tells two values"),
    ],
)
def test_what_is_not_whole_is_refused_and_the_rest_is_kept(tiny, made, tmp_path, damage, why) -> None:
    other = shutil.copytree(made, tmp_path / "made")
    broken, _ = runs(other)
    damage(broken)
    found = import_runs(tiny, tmp_path / "runs", other)
    assert len(found.kept) == 1
    assert why in found.refused[broken.name]
    assert [place.name for place in runs(tmp_path / "runs")] == [found.kept[0].name]
    assert not list((tmp_path / "runs").glob(".*partial*"))


def flipped(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def test_another_text_is_refused(tiny: Study, made: Path, tmp_path: Path) -> None:
    other = shutil.copytree(made, tmp_path / "made")
    for run in runs(other):
        tree = json.loads((run / "result.json").read_text())
        (run / "result.json").write_text(json.dumps({**tree, "fingerprint": "0" * 64}))
    found = import_runs(tiny, tmp_path / "runs", other)
    assert len(found.refused) == 2
    assert all("text of source hmm has changed" in why for why in found.refused.values())


def test_another_studys_runs_and_unfinished_ones_are_left(tiny: Study, made: Path, tmp_path: Path) -> None:
    other = shutil.copytree(made, tmp_path / "made")
    first, second = runs(other)
    status = json.loads((first / "status.json").read_text())
    (first / "status.json").write_text(json.dumps({**status, "state": "stopped"}))
    found = import_runs(tiny, tmp_path / "runs", other)
    assert (found.other, [place.name for place in found.kept]) == ([first.name], [second.name])
    edited = tiny.with_("recipe.train.batch=4")
    assert len(import_runs(edited, tmp_path / "others", made).other) == 2


def test_nothing_to_take_and_a_place_that_is_taken_are_refused(tiny: Study, made: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no runs"):
        import_runs(tiny, tmp_path / "runs", tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="exists already"):
        export_runs(tiny, tmp_path / "runs", tmp_path)


def test_the_command_line_says_what_comes_next(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "study.toml").write_text(TOML)
    asked = ["compare", str(tmp_path / "study.toml"), "--root", str(tmp_path / "runs")]
    assert invoke([*asked, "--import-runs", str(made), "--export-runs", str(tmp_path / "out")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "2 runs taken from" in said
    assert "10 runs of tuning written to" in said
    assert "isoflop train" in said
    other = shutil.copytree(made, tmp_path / "made")
    shutil.rmtree(tmp_path / "runs")
    flipped(next(other.glob("*/checkpoints/*/model.safetensors")))
    assert invoke([*asked, "--import-runs", str(other)]) == 3
    assert "1 runs were refused" in capsys.readouterr().err

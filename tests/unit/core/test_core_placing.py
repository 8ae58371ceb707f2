"""What a file names by a relative path lies beside it; what lay elsewhere is still found; a study names a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from isoflop.cli.main import invoke
from isoflop.core.errors import RecipeError, UsageError
from isoflop.core.placing import placed
from isoflop.core.recipe import Recipe
from isoflop.lab.study import Study

RECIPE = """
name = "mine"
tokenizer = "bytes"
model = { name = "transformer", d_model = 16, layers = 1, mixer = { name = "attention", heads = 2 } }
budget = { steps = 3 }
train = { batch = 2, length = 16 }
[source]
name = "text"
paths = ["texts/*.txt"]
"""
STUDY = """
name = "s"
recipe = "RECIPE"
seeds = [1, 2, 3]
ladder = { axis = "steps", rungs = [5, 10, 20] }
arms.muon.overrides = ["optimizer=muon"]
tuning.seeds = [9]
"""


def lay(folder: Path, corpus: Path) -> None:
    """A recipe in ``configs`` with its text beside it."""
    (folder / "configs" / "texts").mkdir(parents=True)
    (folder / "configs" / "mine.toml").write_text(RECIPE)
    for file in sorted(corpus.glob("*.txt"))[:30]:
        (folder / "configs" / "texts" / file.name).write_bytes(file.read_bytes())


def test_a_recipe_finds_the_text_beside_it_from_anywhere(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lay(tmp_path, corpus)
    monkeypatch.chdir(tmp_path)
    assert Recipe.load("configs/mine.toml").source.paths == ("configs/texts/*.txt",)  # type: ignore[attr-defined]
    assert invoke(["train", "configs/mine.toml", "--root", str(tmp_path / "runs")]) == 0, capsys.readouterr().err
    monkeypatch.chdir(tmp_path / "configs")
    own = Recipe.load("mine.toml")
    assert own.source.paths == ("texts/*.txt",)  # type: ignore[attr-defined]
    assert own.hash == Recipe.from_toml(RECIPE).hash


def test_what_leads_nowhere_from_the_file_means_what_it_meant(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay(tmp_path, corpus)
    (tmp_path / "configs" / "texts").rename(tmp_path / "texts")
    monkeypatch.chdir(tmp_path)
    found = Recipe.load("configs/mine.toml")
    assert found.source.paths == ("texts/*.txt",)  # type: ignore[attr-defined]
    assert found.hash == Recipe.from_toml(RECIPE).hash


def test_a_path_on_the_command_line_is_relative_to_the_working_directory(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay(tmp_path, corpus)
    (tmp_path / "configs" / "other.txt").write_text("x")
    monkeypatch.chdir(tmp_path)
    found = Recipe.load("configs/mine.toml", 'source.paths=["other.txt"]')
    assert found.source.paths == ("other.txt",)  # type: ignore[attr-defined]


def test_every_part_that_names_a_file_is_meant(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{}")
    tree = {
        "tokenizer": {"name": "file", "path": "a.json"},
        "objective": {"terms": [{"objective": {"source": {"paths": ["*.json", "none", "/x", "~/y"]}}}]},
        "width": 3,
    }
    found = placed(tree, tmp_path)
    assert found["tokenizer"]["path"] == str(tmp_path / "a.json")
    inner = found["objective"]["terms"][0]["objective"]["source"]["paths"]
    assert inner == [str(tmp_path / "*.json"), "none", "/x", "~/y"]
    assert placed(tree, Path()) == tree


@pytest.mark.parametrize("name", ["mine.toml", "small"])
def test_a_study_names_a_recipes_file(name: str, tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay(tmp_path, corpus)
    (tmp_path / "configs" / "study.toml").write_text(STUDY.replace("RECIPE", name))
    monkeypatch.chdir(tmp_path)
    study = Study.load("configs/study.toml", "recipe.train.batch=3")
    whole = Recipe.load("configs/mine.toml" if name == "mine.toml" else "small")
    assert study.base("baseline").train.batch == 3
    assert study.base("baseline").source == whole.source
    assert Study.from_toml(study.to_toml()) == study
    monkeypatch.chdir(tmp_path / "configs")
    assert Study.load("study.toml").base("muon").optimizer.name == "muon"


def test_a_study_that_names_no_recipe_says_so(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(STUDY.replace("RECIPE", "smal"))
    with pytest.raises(UsageError, match="did you mean small"):
        Study.load(tmp_path / "study.toml")
    (tmp_path / "study.toml").write_text(STUDY.replace("RECIPE", "demo"))
    with pytest.raises(RecipeError, match="demo is a study, not a recipe"):
        Study.load(tmp_path / "study.toml")

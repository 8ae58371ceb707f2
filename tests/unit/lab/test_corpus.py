"""A study's runs are all of one text: finished ones of another are refused with a remedy, not reused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from isoflop.core.reading import read_json
from isoflop.errors import DataError
from isoflop.lab import corpus as module
from isoflop.lab.corpus import Texts, corpus_facts
from isoflop.lab.study import Study
from isoflop.lab.workers import Assignment, LocalWorkers
from isoflop.store.run import Run


@pytest.fixture
def study(tiny: Study, copy: Path) -> Study:
    return tiny.with_(f'recipe.source={{name="text", paths=["{copy}/*.txt"]}}')


def finish(study: Study, root: Path, seed: int, *, status: str = "done") -> tuple[Assignment, Run]:
    """A finished run as training leaves it."""
    recipe = study.run_recipe("adamw", 0, seed)
    run = Run.open(root, recipe)
    run.write_result({"status": status, **module._digests(recipe, root)})
    run.set_status(status)
    return Assignment(recipe, "adamw", 0, "tuning"), run


@pytest.mark.parametrize("status", ["done", "diverged"])
def test_runs_made_on_another_text_are_not_reused_but_named(study, copy, tmp_path, status):
    root = tmp_path / "runs"
    job, run = finish(study, root, 1, status=status)
    _, other = finish(study, root, 2, status=status)
    with LocalWorkers(root, 1, command=["/nothing/starts"]) as workers:
        assert [row.reused for row in workers([job])] == [True]
    (copy / "000.txt").write_text("Something else altogether, and a little longer than nothing.\n")
    with LocalWorkers(root, 1, command=["/nothing/starts"]) as workers, pytest.raises(DataError) as caught:
        list(workers([job]))
    said = str(caught.value)
    assert "the text of source text has changed since runs were made on it (fingerprint " in said
    stale = " ".join(sorted([str(run.path), str(other.path)]))
    assert said.endswith(f"use another --root, or remove the runs made on the old text: {stale}")
    for old in (run, other):
        shutil.rmtree(old.path)
    job, _ = finish(study, root, 1)
    with LocalWorkers(root, 1, command=["/nothing/starts"]) as workers:
        assert [row.reused for row in workers([job])] == [True]


def test_another_evaluated_text_is_told_from_another_corpus(study, tmp_path):
    _, run = finish(study, tmp_path, 1)
    run.write_result({**run.result, "heldout": "e" * 64})
    with pytest.raises(DataError, match=r"made on it \(heldout eeeeeeeeeeee -> \w{12}\)"):
        Texts(tmp_path).check([run])


def test_a_text_that_changes_while_a_study_runs_is_noticed(study, copy, tmp_path):
    """Tuned on the one and evaluated on the other, nothing else would show it."""
    texts = Texts(tmp_path)
    _, first = finish(study, tmp_path, 1)
    texts.check([first], new=True)
    (copy / "000.txt").unlink()
    _, second = finish(study, tmp_path, 2)
    with pytest.raises(DataError, match=f"remove the runs made on the old text: {first.path}$"):
        texts.check([second], new=True)


def test_a_run_that_does_not_tell_its_text_is_taken_as_it_is(study, tmp_path):
    _, run = finish(study, tmp_path, 1)
    run.write_result({"status": "done"})
    texts = Texts(tmp_path)
    texts.check([run], new=True)
    texts.check([run])
    assert not texts._now


def test_compressors_are_asked_once_for_a_text(study, copy, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "isoflop.data.compressors.compressed_bits_per_byte", lambda source: asked.append(1) or {"xz": 2.0}
    )
    other = study.with_("recipe.source.heldout_bytes=500", "name=other")
    for each, count in ((study, 1), (study, 1), (other, 2)):
        assert corpus_facts(each, tmp_path, compressors=True)["compressors"] == {"xz": 2.0}
        assert len(asked) == count
    assert len(read_json(tmp_path / "cache" / "compressors.json")) == 2

"""A run of one shared cell through the command line: broken off and continued, and what it cannot do, by name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from isoflop.cli.main import invoke
from isoflop.core.recipe import Recipe
from isoflop.store.run import Run
from isoflop.train.loop import Loop
from isoflop.train.run import train

RECIPE: dict[str, Any] = {
    "model": {"name": "shared_convolution", "d_model": 8},
    "source": {
        "name": "task",
        "task": {"name": "prefix_parity", "lengths": [1, 4], "evaluate": [6]},
        "examples": 40,
        "heldout": 8,
    },
    "tokenizer": {"name": "symbols", "symbols": "01="},
    "metrics": ["accuracy_by_length"],
    "budget": {"steps": 6},
    "train": {"batch": 4, "length": 7, "evaluations": 1},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(Recipe.from_json(RECIPE), tmp_path_factory.mktemp("cell"), name="cell")


def test_a_run_that_was_broken_off_ends_with_the_same_bytes(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Loop.train_step

    def breaking(loop: Loop) -> Any:
        if loop.step == 3:
            raise KeyboardInterrupt
        return step(loop)

    monkeypatch.setattr(Loop, "train_step", breaking)
    with pytest.raises(KeyboardInterrupt):
        train(Recipe.from_json(RECIPE), tmp_path, name="cell")
    monkeypatch.setattr(Loop, "train_step", step)
    again = train(Recipe.from_json(RECIPE), tmp_path, name="cell")
    assert any("resumed" in str(event) for event in again.events())
    ours, theirs = (each.checkpoint() for each in (again, run))
    assert ours is not None
    assert theirs is not None
    assert (ours[1] / "model.safetensors").read_bytes() == (theirs[1] / "model.safetensors").read_bytes()


def test_one_puzzle_is_told_in_the_singular(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    train(Recipe.from_json(RECIPE).with_("source.heldout=1"), run.path.parent, name="one")
    for name, told in (("one", "over 1 puzzle"), ("cell", "over 8 puzzles")):
        assert invoke(["eval", name, "--root", str(run.path.parent)]) == 0
        assert capsys.readouterr().out.rstrip().endswith(told)


@pytest.mark.parametrize(
    ("verb", "options", "problem"),
    [
        ("generate", ["--prompt", "011="], "sample needs model to be Cacheable, which shared_convolution is not"),
        ("serve", [], "sample needs model to be Cacheable, which shared_convolution is not"),
        ("export", ["OUT"], "no published model is a shared_convolution; `isoflop merge export` writes its weights"),
        (
            "compress",
            ["--with", "{name='slice', hidden_widths=4}", "--name", "cut"],
            "no feed-forward of the model has units",
        ),
    ],
)
def test_what_it_cannot_do_is_refused_by_name(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str, options: list[str], problem: str
) -> None:
    given = [str(tmp_path / "out") if option == "OUT" else option for option in options]
    assert invoke([verb, str(run.path), *given]) == 2
    assert problem in re.sub(r"\s+", " ", capsys.readouterr().err)

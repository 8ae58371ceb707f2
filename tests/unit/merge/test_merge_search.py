"""Evolutionary merging: a planted optimum is found, trials are functions of the seed, a killed search goes on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from isoflop.cli.main import invoke
from isoflop.core.cost import Cost
from isoflop.core.errors import UsageError
from isoflop.core.files import alone_in
from isoflop.core.toml import validated
from isoflop.merge.knobs import value_at
from isoflop.merge.recipe import MergeRecipe, checked, load
from isoflop.merge.search import Scored, Space, search

pytest.importorskip("cma", reason="needs the extra search")
WANTED = {"self_attn": (0.8, 0.1), "mlp": (0.2, 0.9)}


def recipe(**changes: object) -> MergeRecipe:
    tree = {"method": "linear", "models": [{"path": "a"}, {"path": "b"}], **changes}
    return checked(validated(MergeRecipe, tree, source="test"), "test")


def planted(merge: MergeRecipe) -> Scored:
    """Squared distance of the weights in the first and last layer from what was planted."""
    lost = 0.0
    for name, wanted in WANTED.items():
        for model, at_first in zip(merge.models, wanted, strict=True):
            for place, goal in ((0.0, at_first), (1.0, 1 - at_first)):
                lost += (float(value_at(model.parameters["weight"], name, place) or 0) - goal) ** 2
    return Scored(lost, Cost(flops=7))


SPACE = Space(recipe(), filters=("self_attn",), blocks=2)


def test_a_planted_optimum_is_found_and_written_as_an_ordinary_merge(tmp_path: Path) -> None:
    assert SPACE.size == 8
    assert search(SPACE, planted, tmp_path / "s", trials=400) < 1e-3
    assert planted(load(tmp_path / "s/merge.toml")).value < 1e-3
    assert json.loads((tmp_path / "s/ledger.json").read_text())["search"]["flops"] == 2800


def test_a_killed_search_goes_on_with_the_same_trials(tmp_path: Path) -> None:
    search(SPACE, planted, tmp_path / "whole", trials=40)
    calls = 0

    def dying(merge: MergeRecipe) -> Scored:
        nonlocal calls
        calls += 1
        if calls > 13:
            raise KeyboardInterrupt
        return planted(merge)

    with pytest.raises(KeyboardInterrupt):
        search(SPACE, dying, tmp_path / "cut", trials=40)
    with (tmp_path / "cut/trials.jsonl").open("a") as file:
        file.write('{"trial": 13, "ge')
    calls = -100
    search(SPACE, dying, tmp_path / "cut", trials=40)
    assert calls == -100 + 27
    for name in ("trials.jsonl", "merge.toml", "ledger.json"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    with pytest.raises(UsageError, match="another search"):
        search(SPACE, planted, tmp_path / "cut", trials=40, seed=1)


def test_trials_of_older_searches_are_read(tmp_path: Path) -> None:
    search(SPACE, planted, tmp_path / "s", trials=5)
    file, bill = tmp_path / "s/trials.jsonl", (tmp_path / "s/ledger.json").read_bytes()
    file.write_text(file.read_text().replace('"flops"', '"model"').replace('"executed"', '"hardware"'))
    search(SPACE, planted, tmp_path / "s", trials=5)
    assert (tmp_path / "s/ledger.json").read_bytes() == bill


def test_two_processes_do_not_work_on_one_search(tmp_path: Path) -> None:
    with alone_in(tmp_path / "s"), pytest.raises(UsageError, match="another process works on it"):
        search(SPACE, planted, tmp_path / "s", trials=2)
    search(SPACE, planted, tmp_path / "s", trials=2)


def test_trials_that_are_not_finite_rank_last_and_densities_stay_shares(tmp_path: Path) -> None:
    space = Space(recipe(method="ties", base="base"), knobs=("weight", "density"))

    def fitness(merge: MergeRecipe) -> Scored:
        density = float(value_at(merge.models[0].parameters["density"], "x", 0.0) or 0)
        assert 0 < density <= 1
        return Scored(float("nan") if density < 0.5 else density)

    assert 0.5 <= search(space, fitness, tmp_path / "s", trials=60) < 0.6


def test_what_cannot_be_searched_is_refused() -> None:
    with pytest.raises(UsageError, match="no knob 'density'"):
        Space(recipe(), knobs=("density",))


def test_runs_are_searched_from_the_command_line(
    tiny: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for seed in (1, 2):
        path = tiny(f"seed={seed}", "budget.steps=4", name=f"{seed}.toml")
        assert invoke(["train", str(path), "--name", f"run{seed}", "--threads", "1"]) == 0
    Path("two.toml").write_text('method = "linear"\nmodels = [{ path = "runs/run1" }, { path = "runs/run2" }]\n')
    command = ["merge", "search", "two.toml", "found", "--run", "run1", "--trials", "8", "--json"]
    assert invoke(command) == 0
    capsys.readouterr()
    shutil.rmtree("runs/cache", ignore_errors=True)
    assert invoke(command) == 0
    value = json.loads(capsys.readouterr().out)["value"]
    trials = [json.loads(line) for line in Path("found/trials.jsonl").read_text().splitlines()][1:]
    assert len(trials) == 8
    assert value == min(trial["value"] for trial in trials)
    assert trials[0]["cost"]["flops"] > 0
    assert invoke(["merge", "found/merge.toml", "merged"]) == 0

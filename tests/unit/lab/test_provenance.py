"""What made a study's runs is told once for each environment, and where it differs, in words."""

from __future__ import annotations

import pytest

from isoflop.core.recipe import Recipe
from isoflop.lab.multiplier import AXES, Facts, illegal
from isoflop.lab.provenance import counted, environments_of, key_of, made_by, mixture, remarks
from isoflop.store.results import Point, RunRow, abridged
from isoflop.store.run import Run

HERE = {"commit": "a" * 40, "dirty": False, "cpu": "EPYC", "device": "cpu", "threads": 1, "torch": "2.13.0"}


def row(run: str, environment: str = "", **changes) -> RunRow:
    fields = {
        "recipe_hash": "h",
        "arm": "base",
        "rung": 0,
        "seed": 1,
        "role": "evaluation",
        "status": "done",
        **changes,
    }
    return RunRow(run=run, environment=environment, **fields)


def test_each_environment_is_read_once_from_the_runs(tiny, tmp_path):
    runs = [Run.open(tmp_path, tiny.run_recipe("adamw", 0, seed)) for seed in (1, 2, 3)]
    for run, threads in zip(runs, (1, 1, 2), strict=True):
        run.check_environment(threads=threads, device="NVIDIA H100")
    rows = [row(run.path.name, key_of(made_by(run))) for run in runs]
    found = environments_of(tmp_path, [*rows, row("elsewhere")])
    assert sorted(made["threads"] for made in found.values()) == [1, 2]
    assert {made["device"] for made in found.values()} == {"NVIDIA H100"}
    assert counted([*rows, *rows, row("elsewhere")], found, "threads") == {"1": 2, "2": 1}


def test_a_run_that_went_on_elsewhere_says_so(tiny, tmp_path):
    recipe: Recipe = tiny.run_recipe("adamw", 0, 1)
    run = Run.open(tmp_path, recipe)
    run.check_environment(threads=1)
    assert made_by(run) == run.environment
    run.record("step", step=1, loss=2.0)
    run.check_environment(threads=2)
    assert made_by(run) == {**run.environment, "threads": [1, 2]}
    assert mixture([row("r", "x")], {"x": made_by(run)}) == "threads: 1 -> 2 (1 run)"
    run.check_environment(threads=4)
    assert made_by(run)["threads"] == [1, 2, 4]
    run.check_environment(threads=2)
    assert made_by(run)["threads"] == [1, 2, 4]
    assert counted([row("r", "x")], {"x": made_by(run)}, "threads") == {"1 -> 2, 4": 1}
    run.event("environment", changes=["threads: 1 -> 8"])  # as the first release stored it
    run.event("environment", changes=["threads: 1 -> 4"])
    assert abridged(made_by(run)["threads"]) == "1 -> 2, 4, 8"


@pytest.mark.parametrize("cpu", ["Xeon, 8 cores", "a: b", "a -> b", ""])
def test_what_a_value_holds_is_not_read_as_a_list_of_values(tiny, tmp_path, cpu):
    run = Run.open(tmp_path, tiny.run_recipe("adamw", 0, 1))
    run.check_environment(cpu="first, of two")
    run.record("step", step=1, loss=2.0)
    for _ in range(2):
        run.check_environment(cpu=cpu)
    assert made_by(run)["cpu"] == ["first, of two", cpu]
    assert mixture([row("r", "x")], {"x": made_by(run)}) == f"cpu: first, of two -> {cpu} (1 run)"
    assert mixture([row("r", "x")], {"x": {**run.environment, "cpu": cpu}}) == ""


def test_what_differs_is_said_with_the_number_of_runs():
    known = {"x": HERE, "y": {**HERE, "commit": "b" * 40}}
    rows = [row("1", "x"), row("2", "x"), row("3", "y"), row("3", "y"), row("4")]
    assert remarks(rows, known, HERE) == [
        "not all runs were made alike: commit aaaaaaaaaaaa (2 runs), bbbbbbbbbbbb (1 run)"
    ]
    assert remarks(rows[:2], known, HERE) == []
    assert remarks(rows[:2], known, {**HERE, "cpu": "Xeon"}) == [
        "the runs were made elsewhere or by other code: cpu EPYC (2 runs), here Xeon"
    ]
    assert remarks(rows[:2], known, {"commit": "a" * 40}) == [], "a process that reports has no device of its own"


def test_seconds_of_different_machines_or_code_are_refused():
    axes = ("step", "flops", "hardware_flops", "tokens", "text_bytes", "seconds")
    ends = {(k, s): Point(**dict.fromkeys(axes, k + 1), value=2.0 + s, stderr=0.1) for k in range(3) for s in range(3)}
    runs = [row(f"{k}{s}", "x", rung=k, seed=s, curve=[end], exclusive=True) for (k, s), end in ends.items()]
    facts = {"base": Facts(1, 1, "bytes")}
    for key, other in (("cpu", "Xeon"), ("device", "H100"), ("threads", 2), ("commit", "b" * 40), ("dirty", True)):
        known = {"x": HERE, "y": {**HERE, key: other}}
        mixed = [runs[0].model_copy(update={"environment": "y"}), *runs[1:]]
        assert [illegal(axis, facts, runs, "base", known) for axis in AXES] == [""] * len(AXES)
        reasons = {axis: illegal(axis, facts, mixed, "base", known) for axis in AXES}
        assert f"different code or machines ({key}: " in reasons.pop("seconds")
        assert set(reasons.values()) == {""}

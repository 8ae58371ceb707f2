"""Pipelines that are made: each stage once, bills with ancestors, values that are those of the weights, verdicts."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from isoflop.core.errors import RecipeError, UsageError
from isoflop.core.files import alone_in
from isoflop.core.references import ROOT
from isoflop.ledger.ledger import CHARGED
from isoflop.pipelines.judging import judge
from isoflop.pipelines.making import Made
from isoflop.pipelines.pipeline import Bar, Pipeline
from isoflop.pipelines.run import home, run
from isoflop.store.pipelines import PipelineResult, StageRow
from isoflop.store.removal import remove
from isoflop.store.run import Run
from isoflop.store.tensors import Checkpoint
from pipeline_files import DOMAINS


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PipelineResult, list[str]]:
    root = tmp_path_factory.mktemp("runs")
    lines: list[str] = []
    return root, run(Pipeline.from_toml(DOMAINS), root, progress=lines.append), lines


def row_of(result: PipelineResult, stage: str, seed: int = 1) -> StageRow:
    (row,) = [r for r in result.rows if (r.stage, r.seed, r.role) == (stage, seed, "evaluation")]
    return row


def test_every_stage_is_made_for_every_seed(made: tuple[Path, PipelineResult, list[str]]) -> None:
    _, result, _ = made
    evaluated = [(row.stage, row.seed) for row in result.rows if row.role == "evaluation"]
    assert evaluated == [(stage, seed) for seed in (1, 2, 3) for stage in ("base", "plain", "sfa", "wise_ft")]
    tried = [(row.stage, row.choice) for row in result.rows if row.role == "tuning"]
    assert tried == [("sfa", {"averaging.beta": beta}) for beta in (0.2, 0.5, 0.8)]
    for row in result.rows:
        assert set(row.values) == {"old", "new"}
        assert set(row.values["old"]) == {"bits_per_byte", "accuracy"}


def test_the_value_that_scores_best_is_chosen(made: tuple[Path, PipelineResult, list[str]]) -> None:
    _, result, _ = made
    (chosen,) = result.chosen
    scores = [row.values["old"]["bits_per_byte"] for row in result.rows if row.role == "tuning"]
    assert chosen.scores == pytest.approx(scores)
    assert chosen.chosen == chosen.tried[int(np.argmin(scores))]
    assert all(row.choice == chosen.chosen for row in result.rows if row.stage == "sfa" and row.role == "evaluation")


def test_a_run_is_measured_as_it_measures_itself(made: tuple[Path, PipelineResult, list[str]]) -> None:
    root, result, _ = made
    base = row_of(result, "base")
    assert base.values["old"]["bits_per_byte"] == pytest.approx(Run.read(root / base.made).figure("value"), abs=1e-12)


def test_a_merge_holds_what_its_method_says(made: tuple[Path, PipelineResult, list[str]]) -> None:
    root, result, _ = made
    names = {stage: row_of(result, stage).made for stage in ("base", "plain", "wise_ft")}
    base, plain = (Checkpoint(Run.read(root / names[stage]).checkpoint()[1]) for stage in ("base", "plain"))  # type: ignore[index]
    merged = Checkpoint(root / names["wise_ft"])
    for name in merged.tensors:
        torch.testing.assert_close(merged.read(name), 0.75 * base.read(name) + 0.25 * plain.read(name))


def test_bills_hold_ancestors_once(made: tuple[Path, PipelineResult, list[str]]) -> None:
    _, result, _ = made
    base, plain, wise = (row_of(result, stage) for stage in ("base", "plain", "wise_ft"))
    assert base.ancestors == {}
    assert plain.flops_with_ancestors == base.flops + plain.flops
    assert set(wise.ancestors) == {base.identity, plain.identity}
    assert wise.flops == 0
    assert wise.ledger["train"]["moved"] > 0
    assert wise.flops_with_ancestors == base.flops + plain.flops
    evaluated = {row.identity: row.flops for row in result.rows if row.role == "evaluation"}
    assert sum(result.bill[p]["flops"] for p in CHARGED if p in result.bill) == sum(evaluated.values())
    assert result.bill["tuning"]["flops"] > 0
    assert result.bill["evaluation"]["flops"] > 0


def test_what_is_made_is_not_made_again(
    made: tuple[Path, PipelineResult, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, result, lines = made
    assert sum("after 4 steps" in line for line in lines) == 3 * 3 + 3 + 1  # stages and seeds, trials, what they need

    def refuse(*args: object, **more: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr("isoflop.pipelines.making.Probe.measure", refuse)
    monkeypatch.setattr("isoflop.pipelines.making.merge", refuse)
    again: list[str] = []
    second = run(Pipeline.from_toml(DOMAINS), root, progress=again.append)
    assert not [line for line in again if "steps" in line]
    assert second.model_dump(exclude={"created"}) == result.model_dump(exclude={"created"})


def test_a_model_is_read_once_for_all_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest, read = Made.weights, list[str]()

    def weights(made: Made) -> dict[str, torch.Tensor]:
        read.append(made.identity)
        return honest(made)

    monkeypatch.setattr(Made, "weights", weights)
    pipeline = Pipeline.from_toml(DOMAINS[: DOMAINS.index("[stages.plain]")], "seeds=[1]", "tuning_seeds=[]")
    result = run(pipeline, tmp_path)
    assert len(pipeline.texts) == 2
    assert read == [row_of(result, "base").identity]
    run(pipeline, tmp_path)
    assert len(read) == 1, "what is measured is not read again"


def test_what_a_result_counts_is_not_removed(made: tuple[Path, PipelineResult, list[str]]) -> None:
    root, result, _ = made
    for stage in ("base", "sfa"):
        with pytest.raises(UsageError, match="pipeline domains"):
            remove(Run.read(root / row_of(result, stage).made), root)


def test_another_pipeline_of_the_name_has_a_directory_of_its_own(made: tuple[Path, PipelineResult, list[str]]) -> None:
    root, _, _ = made
    assert home(Pipeline.from_toml(DOMAINS), root) == root / "domains"
    assert home(Pipeline.from_toml(DOMAINS, "seeds=[4,5,6]"), root) != root / "domains"


def test_two_processes_do_not_work_on_one_pipeline(made: tuple[Path, PipelineResult, list[str]]) -> None:
    root, _, _ = made
    with alone_in(root / "domains"), pytest.raises(UsageError, match="another process works on it"):
        run(Pipeline.from_toml(DOMAINS), root)


def test_adapters_are_joined_with_trained_weights(tmp_path: Path) -> None:
    text = (
        DOMAINS[: DOMAINS.index("[stages.plain]")]
        + """
[stages.one]
recipe = { start = "base", source = "new", parametrization = { name = "lora", rank = 2 } }

[stages.two]
recipe = { start = "base", source = "old", parametrization = { name = "lora", rank = 3 } }

[stages.cat]
recipe = { start = "base", source = "new", models = { a = "one", b = "two" } }

[stages.mean]
merge = { method = "linear", models = [{ path = "one" }, { path = "two" }] }
"""
    )
    cat = 'stages.cat.recipe.parametrization={name="cat", adapters=["a", "b"], spread=0.0}'
    rate = "stages.cat.recipe.optimizer.lr=1e-12"
    token = ROOT.set(tmp_path)
    try:
        result = run(Pipeline.from_toml(text, cat, rate, "seeds=[1]", "tuning_seeds=[]"), tmp_path)
    finally:
        ROOT.reset(token)
    mean, joined = row_of(result, "mean"), row_of(result, "cat")
    assert joined.values["old"]["bits_per_byte"] == pytest.approx(mean.values["old"]["bits_per_byte"], abs=1e-5)
    assert set(joined.ancestors) == {row_of(result, stage).identity for stage in ("base", "one", "two")}


def rows(values: dict[str, list[float]]) -> list[StageRow]:
    blank = {"made": "", "identity": "", "ledger": {}, "ancestors": {}, "flops": 0, "flops_with_ancestors": 0}
    return [
        StageRow(stage=stage, seed=seed, role="evaluation", values={"t": {"m": value}}, **blank)  # type: ignore[arg-type]
        for stage, found in values.items()
        for seed, value in enumerate(found)
    ]


def test_a_bar_is_met_missed_or_open() -> None:
    found = rows({"a": [1.0, 1.1, 0.9, 1.0], "b": [2.0, 2.1, 1.9, 2.05], "c": [1.0, 1.4, 0.7, 0.95]})
    bars = [
        Bar(says="met", terms={"a": 1, "b": -1}, texts=("t",)),
        Bar(says="missed", terms={"b": 1, "a": -1}, texts=("t",), most=0.5),
        Bar(says="open", terms={"a": 1, "c": -1}, texts=("t",)),
        Bar(says="equal", terms={"a": 0}, texts=("t",)),
    ]
    verdicts = judge(bars, found, "m")
    assert [v.verdict for v in verdicts] == ["met", "missed", "open", "open"]
    difference = np.array([-1.0, -1.0, -1.0, -1.05])
    half = 3.182446 * difference.std(ddof=1) / math.sqrt(4)
    assert verdicts[0].mean == pytest.approx(difference.mean())
    assert verdicts[0].high == pytest.approx(difference.mean() + half, rel=1e-5)
    assert verdicts[0].p < 0.05


HALF = DOMAINS[: DOMAINS.index("[stages.wise_ft]")]


def test_a_model_writes_a_text_that_others_are_trained_on(tmp_path: Path) -> None:
    text = (
        HALF
        + """
[stages.own]
sample = { model = "base", documents = 40, tokens = 12, decoder = { name = "sample", temperature = 0.8 } }

[stages.taught]
recipe = { start = "base", source = "own" }

[stages.neon]
merge = { method = "neon", base = "base", models = [{ path = "taught" }] }
"""
    )
    pipeline = Pipeline.from_toml(text, "seeds=[1]")
    assert "own" not in pipeline.models
    result = run(pipeline, tmp_path)
    base, taught, neon = (row_of(result, stage) for stage in ("base", "taught", "neon"))
    (file,) = (tmp_path / "domains/written").glob("own-*/text.jsonl")
    documents = [json.loads(line)["text"] for line in file.read_text().splitlines()]
    assert len(documents) == 40
    assert all(documents)
    assert file.as_posix() in result.recipes["taught"]
    (own,) = set(taught.ancestors) - {base.identity}
    assert taught.ancestors[own].ledger["rollout"]["flops"] > 0
    assert set(neon.ancestors) == {base.identity, own, taught.identity}
    assert neon.flops_with_ancestors > base.flops + taught.flops  # writing is charged
    file.unlink()  # what is written is a function of the seed
    file.with_name("cost.json").unlink()
    file.parent.rmdir()
    again = run(pipeline, tmp_path)
    assert [json.loads(line)["text"] for line in file.read_text().splitlines()] == documents
    assert again.rows == result.rows


def test_numbers_of_a_merge_are_searched_for_each_seed(tmp_path: Path) -> None:
    pytest.importorskip("cma", reason="needs the extra search")
    text = (
        HALF
        + """
[stages.evolved]
merge = { method = "linear", models = [{ path = "base" }, { path = "plain" }] }
search = { trials = 5, filters = ["mixer"] }
judged_by = ["new"]
"""
    )
    pipeline = Pipeline.from_toml(text, "seeds=[1]")
    result = run(pipeline, tmp_path)
    evolved = row_of(result, "evolved")
    (trials,) = (tmp_path / "domains/searched").glob("evolved-*/trials.jsonl")
    values = [json.loads(line)["value"] for line in trials.read_text().splitlines()[1:]]
    assert len(values) == 5
    assert evolved.values["new"]["bits_per_byte"] == pytest.approx(min(values))
    assert evolved.flops > 0  # the trials are charged
    assert evolved.ledger["search"]["flops"] == evolved.flops
    assert run(pipeline, tmp_path).rows == result.rows
    with pytest.raises(
        RecipeError, match=r"stages\.evolved: search\.knobs: density is no knob of each model in linear"
    ):
        Pipeline.from_toml(text, 'stages.evolved.search.knobs=["density"]')


def test_last_checkpoints_of_a_stage_are_merged(tmp_path: Path) -> None:
    text = (
        HALF
        + """
[stages.last]
merge = { method = "linear", models = [{ path = "plain", checkpoints = 2 }] }
"""
    )
    result = run(Pipeline.from_toml(text, "seeds=[1]", "recipe.train.checkpoints=4", "recipe.train.keep=2"), tmp_path)
    plain, last = (tmp_path / row_of(result, stage).made for stage in ("plain", "last"))
    one, two, made = (Checkpoint(path) for path in (plain / "checkpoints/3", plain / "checkpoints/4", last))
    for name in made.tensors:
        torch.testing.assert_close(made.read(name), (one.read(name) + two.read(name)) / 2)


def test_longer_runs_go_on_from_shorter_ones_and_the_bill_counts_their_steps_once(tmp_path: Path) -> None:
    text = """
    name = "lengths"
    seeds = [1]
    branches = true
    [recipe]
    source = "text"
    schedule = { name = "wsd", warmup = 2, decay = 0.5 }
    model = { name = "transformer", d_model = 16, layers = 1, mixer = { name = "attention", heads = 2 } }
    train = { batch = 2, length = 16, evaluations = 1 }
    [texts.text]
    name = "hmm"
    text_bytes = 20000
    heldout_bytes = 2000
    [stages.short]
    recipe = { budget = { steps = 4 } }
    [stages.long]
    recipe = { budget = { steps = 8 } }
    """
    pipeline = Pipeline.from_toml(text)
    result = run(pipeline, tmp_path / "a")
    apart = run(pipeline.with_("branches=false"), tmp_path / "b")
    assert [row.trunk and row.trunk.step for row in result.rows] == [None, 3]
    assert [row.values for row in result.rows] == [row.values for row in apart.rows]
    assert [row.flops for row in result.rows] == [row.flops for row in apart.rows]
    assert (result.bill["train"]["steps"], apart.bill["train"]["steps"]) == (4 + 8 - 3, 4 + 8)

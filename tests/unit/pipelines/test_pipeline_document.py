"""The pipeline as a document: what stages inherit, what is refused, and where."""

from __future__ import annotations

from pathlib import Path

import pytest

from isoflop.core.errors import RecipeError
from isoflop.pipelines.pipeline import Pipeline
from isoflop.pipelines.planning import foresee
from isoflop.pipelines.trees import joined
from pipeline_files import DOMAINS


def test_a_pipeline_written_out_reads_back_equal() -> None:
    pipeline = Pipeline.from_toml(DOMAINS)
    assert Pipeline.from_toml(pipeline.to_toml()) == pipeline


def test_a_stage_like_another_one_has_what_was_chosen_for_that() -> None:
    grid = 'stages.plain.grid={"optimizer.lr" = [0.1, 0.2]}'
    pipeline = Pipeline.from_toml(DOMAINS, grid)
    tree = pipeline.tree("sfa", {"plain": {"optimizer.lr": 0.2}, "sfa": {"averaging.beta": 0.8}})
    assert tree["optimizer"]["lr"] == 0.2
    assert tree["averaging"] == {"name": "sfa", "period": 2.0, "beta": 0.8}
    assert tree["source"]["rules"] == {"S": {"(SS)": 0.3, "x": 0.7}}
    assert pipeline.tree("sfa", {})["optimizer"]["lr"] == 0.1  # the first, before anything is chosen


def test_tables_join_but_other_parts_and_budgets_replace() -> None:
    old = {"optimizer": "adamw", "budget": {"steps": 3}, "a": {"x": 1, "y": 2}, "terms": [{"n": 1}, {"n": 2, "m": 3}]}
    assert joined(old, {"optimizer": {"lr": 0.1}})["optimizer"] == {"name": "adamw", "lr": 0.1}
    assert joined(old, {"optimizer": {"name": "sgd"}})["optimizer"] == {"name": "sgd"}
    assert joined(old, {"budget": {"flops": 1e9}})["budget"] == {"flops": 1e9}
    assert joined(old, {"a": {"x": 5}})["a"] == {"x": 5, "y": 2}
    assert joined(old, {"terms": {"1": {"n": 7}}})["terms"] == [{"n": 1}, {"n": 7, "m": 3}]
    assert joined(old, {"terms": [1]})["terms"] == [1]
    assert old["a"] == {"x": 1, "y": 2}  # what was given stays


def test_what_is_foreseen_needs_nothing_that_is_made() -> None:
    planned = {stage.name: stage for stage in foresee(Pipeline.from_toml(DOMAINS))}
    assert planned["base"].steps == 4
    assert planned["base"].flops > 0
    assert planned["wise_ft"].steps == planned["wise_ft"].flops == 0
    assert [planned[name].runs for name in ("base", "plain", "sfa", "wise_ft")] == [4, 3, 6, 3]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ('stages.sfa.like="plane"', "stages.sfa.like: no earlier stage is named 'plane'; did you mean plain?"),
        ('stages.plain.recipe.start="sfa"', "stages.plain: builds on sfa, but a stage builds on those above it"),
        ('stages.sfa.recipe.start="wise_ft"', "builds on wise_ft"),
        ("stages.sfa.recipe.seed=3", "stages.sfa.recipe.seed: is set by the pipeline"),
        ("stages.plain.merge={}", "stages.plain: give one of recipe (it trains), merge, compress, and sample"),
        ("stages.plain.search={trials=3}", "stages.plain.search: is of a merge without a grid"),
        ('stages.extra={sample={model="bass", documents=3}}', "sample.model: no stage is named 'bass'"),
        ('stages.sfa.judged_by=["odd"]', "stages.sfa.judged_by: no text is named 'odd'"),
        ("stages.sfa.recipe.averaging.beta=2.0", ""),  # the grid's values stand in its place
        ('stages.sfa.grid={"averaging.beat" = [0.1, 0.2]}', "averaging.beat: no such key; did you mean beta"),
        ("tuning_seeds=[]", "tuning_seeds: a stage has a grid"),
        ("tuning_seeds=[1]", "tuning_seeds: 1 is also an evaluation seed"),
        ("seeds=[1,2]", "bars.0: an interval needs at least 3 seeds, not 2"),
        ("bars.0.terms={sfa=1,plane=-1}", "bars.0.terms: no stage is named 'plane'"),
        ('bars.0.metric="loss"', "bars.0.metric: no metric of the recipe is named 'loss'"),
        ('stages.wise_ft.merge.method="wise"', "no merge is named 'wise'"),
        ("stages.wise_ft.merge.parameters.beta=0.1", "stages.wise_ft: parameters.beta: no such knob"),
        ("recipe.budget.steps=0", "stages: budget.steps: should be above 0"),
    ],
)
def test_problems_are_told_with_their_stage(change: str, said: str) -> None:
    if not said:
        Pipeline.from_toml(DOMAINS, change)
        return
    with pytest.raises(RecipeError) as caught:
        Pipeline.from_toml(DOMAINS, change)
    assert said in str(caught.value)


def test_training_from_a_merge_is_refused_by_name() -> None:
    text = DOMAINS.replace("[[bars]]", '[stages.on]\nrecipe = { start = "wise_ft", source = "new" }\n\n[[bars]]')
    with pytest.raises(RecipeError, match=r"stages\.on: builds on wise_ft, which is a merge: name a stage that trains"):
        Pipeline.from_toml(text)


def test_a_study_is_told_apart() -> None:
    with pytest.raises(RecipeError, match="isoflop compare"):
        Pipeline.from_toml("[ladder]\n")


def test_a_stage_is_no_path_though_something_of_its_name_lies_beside_the_file(tmp_path: Path) -> None:
    file = tmp_path / "sub" / "domains.toml"
    (tmp_path / "sub/plain").mkdir(parents=True)
    (tmp_path / "sub/text.jsonl").touch()
    more = '[texts.own]\nname = "jsonl"\npaths = ["text.jsonl"]\n\n[stages.base]'
    file.write_text(DOMAINS.replace("[stages.base]", more))
    pipeline = Pipeline.load(file)
    assert pipeline.parents("wise_ft") == ["base", "plain"]
    assert pipeline.texts["own"]["paths"] == [str(tmp_path / "sub/text.jsonl")]

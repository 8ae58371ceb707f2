"""A study whose arms build on models that were trained before: their bill stands beside the study's own, each once."""

from __future__ import annotations

from pathlib import Path

import pytest

from isoflop.core.recipe import Recipe
from isoflop.lab.compare import compare
from isoflop.lab.study import Study
from isoflop.lab.workers import Assignment, row_of
from isoflop.report.page import study_page
from isoflop.report.sheets import ancestor_sheet
from isoflop.store.references import ancestors_of
from isoflop.train.run import train


@pytest.fixture
def trunk(tiny: Study, tmp_path: Path):
    recipe = tiny.run_recipe("adamw", 0, 7)
    return train(recipe, tmp_path / "runs", name="trunk")


@pytest.mark.filterwarnings("ignore")
def test_three_arms_that_share_an_ancestor_bill_it_once(trunk, tiny_toml: str, planted, tmp_path: Path) -> None:
    begun = tiny_toml.replace("[recipe]\n", f'[recipe]\nstart = "{trunk.path}"\n').replace('tokenizer = "bytes"\n', "")
    begun = "\n".join(line for line in begun.splitlines() if not line.startswith("model ="))
    teacher = [f"models.teacher={trunk.path}", "objective=distill"]
    study = Study.from_toml(
        f"{begun}\n[arms.lion]\noverrides = ['optimizer=lion']\n[arms.taught]\noverrides = {teacher}\n"
    )
    inner = planted({})

    def executor(jobs):
        for row in inner(jobs):
            job = next(each for each in jobs if each.recipe.hash == row.recipe_hash)
            yield row.model_copy(update={"ancestors": ancestors_of(job.recipe.references, tmp_path / "runs")})

    result = compare(study, tmp_path / "runs", executor=executor, corpus={"fingerprint": "f"})
    assert {row.arm for row in result.runs if row.ancestors} == {"adamw", "muon", "lion", "taught"}
    assert result.ancestors.keys() == {trunk.hash}
    assert result.ancestors[trunk.hash].ledger["train"]["flops"] == trunk.ledger["train"]["flops"]
    assert sum(bill["flops"] for bill in result.bill.values()) == sum(
        amounts["flops"] for row in {row.run: row for row in result.runs}.values() for amounts in row.ledger.values()
    ), "the study's own bill is as it was"
    sheet = ancestor_sheet(result.ancestors)
    assert [row[0] for row in sheet.rows] == ["trunk"]
    assert "Ancestors" in study_page(result, {})


def test_a_finished_run_brings_its_ancestors_into_its_row(trunk, tmp_path: Path) -> None:
    recipe = Recipe.from_json(trunk.resolved, f"start={trunk.path}", "budget={steps=1}")
    run = train(recipe, tmp_path / "runs")
    row = row_of(run, Assignment(recipe, "a", 0, "evaluation"), reused=False)
    assert row.ancestors == run.ancestors
    assert row.ancestors.keys() == {trunk.hash}

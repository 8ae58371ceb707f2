"""A pipeline that compresses: foreseen, made once, measured in its own shape, started from, billed."""

from __future__ import annotations

from pathlib import Path

import pytest

from isoflop.core.errors import RecipeError
from isoflop.ledger.budgets import step_cost
from isoflop.pipelines.pipeline import Pipeline
from isoflop.pipelines.planning import foresee
from isoflop.pipelines.run import run
from isoflop.store.run import Run

HALVED = """
name = "halved"
seeds = [1]

[recipe]
train = { batch = 2, length = 16, evaluations = 1 }
budget = { steps = 4 }

[texts]
old = { name = "pcfg", text_bytes = 6000, heldout_bytes = 300 }

[stages.teacher]
recipe = { source = "old", model = { name = "transformer", d_model = 16, layers = 2 } }

[stages.half]

[stages.half.compress]
model = "teacher"
transforms = [
    { name = "prune", hidden = 0.5, width = 0.5, depth = 0.5, windows = 4 },
    { name = "round", format = "int8" },
]

[stages.taught]
recipe = { start = "half", source = "old", objective = "distill", models = { teacher = "teacher" } }
"""


def test_a_stage_compresses_and_later_ones_start_from_it(tmp_path: Path) -> None:
    pipeline, said = Pipeline.from_toml(HALVED), list[str]()
    plans = {stage.name: stage for stage in foresee(pipeline, tmp_path)}
    result = run(pipeline, tmp_path, progress=said.append)
    rows = {row.stage: row for row in result.rows}
    half, taught = (Run.read(tmp_path / rows[stage].made) for stage in ("half", "taught"))
    assert half.recipe.model == taught.recipe.model
    assert half.recipe.model.d_model == 8  # type: ignore[attr-defined]
    assert rows["half"].values["old"]["bits_per_byte"] == pytest.approx(half.figure("value"), rel=1e-6)
    assert plans["half"].kind == "compression"
    assert plans["taught"].flops == step_cost(taught.recipe).run(4).flops, "the plan knows what is left of the model"
    assert rows["half"].flops == half.ledger["scoring"]["flops"] > 0
    assert set(rows["taught"].ancestors) == {rows["teacher"].identity, rows["half"].identity}
    assert sum("->" in line for line in said) == 1
    assert run(pipeline, tmp_path, progress=said.append).rows == result.rows
    assert len(said) == 3, "nothing is made again"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('model = "teacher"', 'model = "techer"', "no stage is named 'techer'"),
        ("hidden = 0.5", "hidden = 0.001", "leaves nothing"),
        ("[stages.half]\n", '[stages.half]\nlike = "teacher"\n', "neither like nor grid"),
        ('{ name = "prune"', '{ name = "prone"', "prune"),
        ('start = "half"', 'start = "hlaf"', "hlaf"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_made(old: str, new: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Pipeline.from_toml(HALVED.replace(old, new))

"""Parametrizations of weights over a run's life: the same bytes after a stop, the same logits after a reload."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from isoflop.compress.sparsity import group_mask
from isoflop.core.contracts import Treatment, merged
from isoflop.core.errors import RecipeError
from isoflop.core.recipe import Recipe
from isoflop.ledger.budgets import step_cost
from isoflop.store.run import Run
from isoflop.train.restore import trained
from isoflop.train.run import train, weights_digest

TINY = (
    'source={name="hmm", text_bytes=20000, heldout_bytes=1000}',
    "tokenizer=bytes",
    "model={name='transformer', d_model=16, layers=1}",
    "train={length=16, batch=2, evaluations=2, checkpoints=3, keep=3}",
    "budget={steps=12}",
)
FORMS = {
    "integer": '{name="integer", bits=3, block=8, begin=0.5}',
    "floating": '{name="floating", format="fp4_e2m1", roles=["hidden", "head", "norm"]}',
    "mx": "mx",
    "mx_everywhere": '{name="mx", weights="mxfp4_e2m1", roles=["hidden", "embedding", "head", "norm"]}',
    "lotion": '{name="lotion", weight=100.0}',
    "soft_threshold": '{name="soft_threshold", sparsity=0.5}',
    "nm": '{name="nm", n=1, m=4, structure="stepwise", rule="exponential", tune=0.25}',
    "sr_ste": '{name="nm", n=2, m=8, rule="sr_ste", dense_share=0.25}',
    "magnitude": '{name="magnitude", sparsity=0.75, levels=3}',
    "global": '{name="magnitude", sparsity=0.75, levels=3, budget="global"}',
    "borrowed": '{name="magnitude", budget="borrowed", densities={"*.mixer.*"=0.5, "*"=0.25}}',
    "nm_integer": '["nm", "integer"]',
    "magnitude_floating": '[{name="magnitude", levels=2}, "floating"]',
    "nm_lotion": '["nm", {name="lotion", weight=10.0}]',
    "soft_mx": '[{name="soft_threshold", sparsity=0.5}, {name="mx", activations="none", gradients="none"}]',
    "nm_mx": '[{name="nm", rule="linear", rate=0.1}, "mx"]',
}
IDS = torch.arange(16)[None] % 250


def recipe_of(form: str, *changes: str) -> Recipe:
    return Recipe.load("small", *TINY, f"parametrization={FORMS[form]}", *changes)


def logits(run: Run) -> str:
    """SHA-256 of the logits of a run's finalised weights, in a plain model but where products round their operands."""
    found = trained(run)
    part: Any = found.recipe.parametrization
    rounding = next((own for own in getattr(part, "parts", (part,)) if own.name == "mx"), None)
    plain = found.recipe.model.treated(Treatment(rounding)).build(found.ctx)
    plain.load_state_dict({**plain.state_dict(), **merged(found.model)})
    with torch.no_grad():
        ours, theirs = found.model(IDS), plain.eval()(IDS)
        assert torch.equal(ours, theirs)
    return hashlib.sha256(ours.numpy().tobytes()).hexdigest()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    root = tmp_path_factory.mktemp("runs")
    return {form: train(recipe_of(form), root, name=form) for form in FORMS}


def test_a_fresh_process_bakes_in_the_same_logits(runs: dict[str, Run]) -> None:
    """Of each form and composition; the fresh process reads nothing but the directories."""
    here = {form: logits(run) for form, run in runs.items()}
    root, tests = next(iter(runs.values())).path.parent, Path(__file__).parent
    program = (
        f"import sys, json; sys.path[:0] = [{str(tests)!r}, {str(tests.parent)!r}]\n"
        "from test_parametrization_life import FORMS, logits\n"
        "from isoflop.store.run import Run\n"
        "from pathlib import Path\n"
        f"print(json.dumps({{form: logits(Run.read(Path({str(root)!r}) / form)) for form in FORMS}}))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == here


@pytest.mark.parametrize("form", ["soft_threshold", "nm", "magnitude", "global", "nm_lotion", "integer"])
def test_a_stopped_run_ends_with_the_same_bytes(form: str, runs: dict[str, Run], tmp_path: Path) -> None:
    whole = runs[form]
    again = train(recipe_of(form), tmp_path, name=form)
    newest = sorted((again.path / "checkpoints").iterdir())[-1]
    for file in sorted(newest.rglob("*"), reverse=True):
        file.unlink()
    newest.rmdir()
    taken_up = train(recipe_of(form), tmp_path, name=form)
    assert weights_digest(taken_up) == weights_digest(whole)
    assert taken_up.result["value"] == whole.result["value"]
    assert taken_up.ledger == {**whole.ledger, **taken_up.ledger}


def test_groups_hold_exactly_n_of_m_and_masks_what_was_asked(runs: dict[str, Run]) -> None:
    for form, n, m in (("nm", 1, 4), ("sr_ste", 2, 8), ("nm_integer", 2, 4), ("nm_mx", 2, 4)):
        for name, weight in merged(trained(runs[form]).model).items():
            if name.startswith("blocks.") and weight.ndim == 2:
                assert int((weight.view(-1, m) != 0).sum(1).max()) <= n, (form, name)
                if form in ("nm", "sr_ste"):
                    assert bool(((weight.view(-1, m) != 0).sum(1) == n).all()), (form, name)
    for form in ("magnitude", "global", "soft_threshold"):
        weights = [w for n, w in merged(trained(runs[form]).model).items() if n.startswith("blocks.") and w.ndim == 2]
        zeros = sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)
        assert zeros == pytest.approx({"soft_threshold": 0.5}.get(form, 0.75), abs=0.02), form
        if form == "magnitude":
            assert all(float((w == 0).float().mean()) == 0.75 for w in weights)
    kept = merged(trained(runs["borrowed"]).model)
    assert float((kept["blocks.0.mixer.q.weight"] != 0).float().mean()) == 0.5
    assert float((kept["blocks.0.feed_forward.up.weight"] != 0).float().mean()) == 0.25


@pytest.mark.parametrize("form", FORMS)
def test_the_ledger_is_what_was_planned_step_by_step(form: str, runs: dict[str, Run]) -> None:
    recipe, run = recipe_of(form), runs[form]
    planned = step_cost(recipe).run(12)
    assert run.result["flops"] == planned.flops
    assert run.result["hardware_flops"] == planned.executed


def test_steps_under_a_mask_need_fewer_flops_and_execute_as_many() -> None:
    dense, nm = step_cost(Recipe.load("small", *TINY)), step_cost(recipe_of("sr_ste"))
    assert nm.run(12).executed == dense.run(12).executed
    early, late = nm.work_at(0, 12), nm.work_at(11, 12)
    assert early.forward.flops == dense.work.forward.flops > late.forward.flops
    shapes = recipe_of("sr_ste").policy.shapes(257)
    masked = sum(s.numel for s in shapes if s.role == "hidden")
    tokens = 2 * 16
    assert early.forward.flops - late.forward.flops == 2 * tokens * masked * 3 // 4
    gradient = early.backward.flops - late.backward.flops
    assert gradient == 2 * tokens * masked * 3 // 4, "of the inputs; a straight-through weight gradient is dense"
    hard = step_cost(recipe_of("magnitude"))
    skipped = dense.work.backward.flops - hard.work_at(11, 12).backward.flops
    assert skipped == 2 * 2 * tokens * masked * 3 // 4, "what is masked for good needs no gradient either"


def test_a_budget_in_flops_buys_more_steps_of_a_sparse_run() -> None:
    flops = step_cost(Recipe.load("small", *TINY)).run(100).flops
    from isoflop.ledger.budgets import steps_within

    for form in ("sr_ste", "magnitude", "nm"):
        recipe = Recipe.load("small", *TINY[:-1], f"parametrization={FORMS[form]}", f"budget={{flops={flops}}}")
        cost = step_cost(recipe)
        steps = steps_within(recipe.budget, cost)
        assert cost.run(steps).flops <= flops < cost.run(steps + 1).flops
        assert steps > 100


def test_ties_keep_the_first() -> None:
    mask = group_mask(torch.ones(2, 8), 2, 4)
    assert mask.tolist() == [[True, True, False, False] * 2] * 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (['parametrization={name="nm", n=3, m=2}'], "3 of 2 weights cannot be kept"),
        (['parametrization={name="nm", n=1, m=5}'], "groups of 5 do not divide"),
        (['parametrization={name="nm", n=1, m=8, structure="geometric"}'], "groups of 64 do not divide"),
        (['parametrization={name="magnitude", sparsity=0.9999}'], "nothing would be left"),
        (['parametrization={name="magnitude", budget="borrowed"}'], "densities"),
        (["parametrization=soft_threshold", "optimizer.weight_decay=0"], "optimizer has none"),
        (['parametrization={name="floating", format="fp4_e3m0"}'], "fp4_e2m1"),
        (['parametrization={name="mx", weights="mxfp8"}'], "mxfp8_e4m3"),
        (['parametrization=["mx", "nm"]'], "put it last"),
        (['parametrization=["lora", "nm"]'], "use it alone"),
        (['parametrization=["nm", "nm"]'], "names nm twice"),
        (['parametrization={name="composed", parts=["nm", "integer"], targets=["*.nowhere"]}'], "matches no matrix"),
        (['parametrization={name="integer", roles=["head"]}', "model.tied=true"], "a tied head is the embedding"),
        (
            ['parametrization={name="integer", begin=0.5}', "budget={seconds=5}", "schedule=constant"],
            "share of the run",
        ),
        (
            ['parametrization={name="nm", structure="stepwise"}', "budget={seconds=5}", "schedule=constant"],
            "known length",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(changes: list[str], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Recipe.load("small", *TINY, *changes)


def test_a_mask_from_the_first_step_on_is_charged_as_one() -> None:
    masked = step_cost(Recipe.load("small", *TINY, 'parametrization={name="nm", n=1, m=4, rule="sr_ste"}'))
    late = step_cost(Recipe.load("small", *TINY, 'parametrization={name="nm", n=1, m=4, dense_share=0.25}'))
    assert masked.work_at(0, 12).forward.flops == late.work_at(11, 12).forward.flops
    assert masked.run(12).flops < late.run(12).flops

"""What a run is charged is what it executed, also where an optimizer makes passes of its own, and what was planned."""

import pytest

from isoflop.core.recipe import Recipe
from isoflop.ledger.budgets import step_cost
from isoflop.train.run import train

TINY = (
    'source={name="hmm", text_bytes=20000, heldout_bytes=1000}',
    "tokenizer=bytes",
    "model={name='transformer', d_model=16, layers=1}",
    "train={length=16, batch=2, accumulate=2, evaluations=1}",
    "schedule=constant",
)
LOOKING = {
    "sophia_g": '{name="sophia_g", every=2}',
    "gauss_newton": '{name="gauss_newton", inner_steps=3}',
    "gauss_newton on SOAP": '{name="gauss_newton", inner_steps=3, inner={name="soap", precondition_frequency=2}}',
    "mars": '{name="mars", is_approx=false}',
    "soap": '{name="soap", precondition_frequency=2}',
}


@pytest.mark.parametrize("optimizer", LOOKING)
def test_the_audit_holds_and_the_ledger_is_the_plan(tmp_path, optimizer):
    recipe = Recipe.load("small", *TINY, f"optimizer={LOOKING[optimizer]}", "budget={steps=5}")
    run = train(recipe, tmp_path, audit=True)  # refuses to go on if the first steps are off by one FLOP
    planned = step_cost(recipe).phases(5)
    for phase, cost in planned.items():
        charged = run.ledger.get(phase, {"flops": 0, "hardware_flops": 0})
        assert (charged["flops"], charged["hardware_flops"]) == (cost.flops, cost.executed), phase
    assert sum(cost.flops for cost in planned.values()) == step_cost(recipe).run(5).flops


def test_a_budget_in_flops_holds_to_the_step_where_steps_differ(tmp_path):
    recipe = Recipe.load("small", *TINY, "optimizer=" + LOOKING["sophia_g"], "budget={steps=7}")
    limit = step_cost(recipe).run(7).flops
    for budget, steps in ((limit, 7), (limit - 1, 6)):
        run = train(recipe.with_(f"budget={{flops={budget}}}"), tmp_path)
        assert run.result["step"] == steps
        assert run.result["flops"] <= budget

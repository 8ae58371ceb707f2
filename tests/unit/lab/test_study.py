"""A study is read strictly, written back equal, and refused where it would not be fair."""

from __future__ import annotations

import itertools

import pytest

from isoflop.core.recipe import Budget, Recipe
from isoflop.errors import RecipeError
from isoflop.lab.study import Study


def test_a_study_comes_back_equal_from_its_own_toml(tiny):
    assert Study.from_toml(tiny.to_toml()) == tiny


@pytest.mark.parametrize("name", ["cache", "machine.json", "Index.sqlite"])
def test_a_name_that_the_store_uses_itself_is_refused(tiny, name):
    with pytest.raises(RecipeError, match=r"name: .* is a name that the store uses itself"):
        tiny.with_(f'name="{name}"')


def test_runs_differ_in_seed_and_budget_and_in_what_the_arm_changes(tiny):
    base = tiny.run_recipe("adamw", 0, 1)
    assert base.budget.steps == 4
    assert tiny.run_recipe("adamw", 2, 1).budget.steps == 16
    assert (base.seed, tiny.run_recipe("adamw", 0, 2).seed) == (1, 2)
    assert base.differences(tiny.run_recipe("muon", 0, 1))[0].startswith("optimizer.")
    assert base.differences(tiny.run_recipe("adamw", 0, 1, 0.02)) == ["optimizer.lr: 0.004 -> 0.02"]


def test_every_seed_gives_another_stream_of_data_and_weights(tiny):
    """One seed reused for all data order would make the seeds' spread a fiction."""
    roots = [tiny.run_recipe("adamw", 0, seed).rng for seed in (*tiny.seeds, *tiny.tuning.seeds)]
    for stream in ("data", "init"):
        drawn = {tuple(rng(stream).at().integers(2**62, size=4).tolist()) for rng in roots}
        assert len(drawn) == len(roots)


def test_the_grid_lies_around_the_recipes_rate_and_is_the_parts_own(tiny):
    assert tiny.grid("adamw") == (0.002, 0.004, 0.008, 0.016)
    assert tiny.with_("recipe.optimizer={name='adamw', lr=0.001}").grid("adamw") == (
        0.0005,
        0.001,
        0.002,
        0.004,
    )  # equally near: the higher
    assert tiny.with_("tuning.points=3").grid("muon") == (0.002, 0.004, 0.008)


def test_flop_and_token_ladders_become_budgets(tiny):
    by_flops = tiny.with_("ladder={axis='flops', rungs=[1e6, 2e6, 4e6]}")
    assert by_flops.run_recipe("muon", 1, 1).budget.flops == 2e6
    by_tokens = tiny.with_("ladder={axis='tokens', rungs=[64, 128, 256]}")
    assert by_tokens.run_recipe("adamw", 2, 1).budget.tokens == 256


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("tuning.seeds=[2, 101]", "tuning.seeds: 2 is also an evaluation seed"),
        ("seeds=[1, 2]", "seeds: an interval needs at least 3 seeds, not 2: Student's 95 % interval of two is 18"),
        ("seeds=[1, 2, 2]", "seeds: one is given twice"),
        ("ladder.rungs=[4, 8]", "ladder.rungs: should have at least 3 entries"),
        ("ladder.rungs=[4, 8, 12]", "rungs must double, but 12 / 8 = 1.5; e.g. rungs = [4, 8, 16]"),
        ("ladder.rungs=[4.5, 9, 18]", "rungs in steps must be whole numbers"),
        ("ladder.axis=seconds", "ladder.axis"),
        ("ladder.axes=steps", "ladder.axes: no such key; did you mean axis?"),
        ("arms.muon.rungs=[3]", "arms.muon.rungs: 3 is no rung; the ladder's are 0 to 2"),
        ("arms.muon.rungs=[1, 1]", "arms.muon.rungs: one is given twice"),
        ('arms.muon.overrides=["optimizr=muon"]', "arms.muon: override optimizr=muon: optimizr: no such key"),
        ('arms.muon.overrides=["optimizer=moun"]', "no optimizer is named 'moun'; did you mean muon?"),
        ('arms.muon.overrides=["seed=3"]', "'seed=3' sets what the study sets itself"),
        ('arms.muon.overrides=["budget.steps=3"]', "'budget.steps=3' sets what the study sets itself"),
        ("recipe.seed=3", "recipe.seed: is set by the study"),
        ("recipe.train.batch=0", "recipe: train.batch: should be at least 1, got 0"),
        ("baseline=muon", "arms.muon: is the baseline's name"),
        ("tuning.grids={moun=[1e-3, 2e-3, 4e-3]}", "tuning.grids.moun: no such arm; did you mean muon?"),
        ("tuning.grids={muon=[1e-3, 4e-3, 2e-3]}", "tuning.grids.muon: values must ascend"),
        ("tuning.grids={muon=[1e-3, 2e-3, 4e-3]}", "every arm must get the same number of trials (adamw 4, muon 3)"),
        ("tuning.points=99", "its search space for lr has"),
        ("tuning.hyper=optimizer.eps", "optimizer adamw declares no search space for eps; give tuning.grids.adamw"),
        ("tuning.hyper=optimiser.lr", "its recipe has no optimiser.lr"),
        (
            'arms.muon.overrides=["train.length=32"]',
            "arms.muon: differs from adamw in train.length, which decides what",
        ),
        ('arms.muon.overrides=["source.heldout_bytes=9"]', "arms.muon: differs from adamw in source.heldout_bytes"),
        ('arms.muon.overrides=["source.heldout_share=0.1"]', "arms.muon: differs from adamw in source.heldout_share"),
        ('arms.muon.overrides=["source=pcfg"]', "arms.muon: differs from adamw in source.name"),
        (
            "arms.muon.overrides=[\"metrics=[{name='bits_per_byte', batch=1}]\"]",
            "arms.muon: differs from adamw in metr",
        ),
        ("tuning.hyper=train.length", "tuning.hyper: train.length decides what is measured, so it cannot be tuned"),
        ("tuning.hyper=metrics.0.batch", "tuning.hyper: metrics decides what is measured, so it cannot be tuned"),
        ("tuning.hyper=train.clip", "train.clip belongs to no part with a search space"),
    ],
)
def test_an_unfair_or_broken_study_is_refused_by_name(tiny_toml, change, said):
    with pytest.raises(RecipeError) as caught:
        Study.from_toml(tiny_toml, change)
    assert said in str(caught.value)


def test_an_arm_may_change_the_training_text_and_the_tokenizer(tiny):
    changed = tiny.with_('arms.muon.overrides=["source.text_bytes=30000", "tokenizer=bpe"]')
    assert changed.run_recipe("muon", 0, 1).source.text_bytes == 30000


def test_all_problems_come_in_one_report_each_once(tiny_toml):
    with pytest.raises(RecipeError) as caught:
        Study.from_toml(
            tiny_toml, "recipe.train.batch=0", "recipe.train.clip=-1", 'arms.muon.overrides=["optimizer.x=1"]'
        )
    assert len(caught.value.problems) == 3
    assert "override recipe.train.batch=0: recipe: train.batch: " in str(caught.value)


def test_a_grid_value_that_an_arm_cannot_take_is_refused(tiny_toml):
    with pytest.raises(RecipeError, match=r"adamw does not take averaging.decay = 2.0"):
        Study.from_toml(
            tiny_toml,
            "recipe.averaging=ema",
            "tuning.hyper=averaging.decay",
            "tuning.grids={adamw=[0.5, 0.9, 2.0], muon=[0.5, 0.9, 0.99]}",
        )


@pytest.mark.parametrize("axis", ["steps={}", "tokens={}00", "flops={}e6"])
def test_a_run_is_the_recipe_that_its_overrides_give_from_the_beginning(tiny, axis):
    """Recipes are built once and derived from then on; what they derive to is what reading each of them would give."""
    key, _, amount = axis.partition("=")
    rungs = [amount.format(2**k) for k in (2, 3, 4)]
    study = tiny.with_(f"ladder={{axis='{key}', rungs=[{', '.join(rungs)}]}}", "recipe.averaging=ema")
    for arm in study.everyone:
        changes = () if arm == study.baseline else study.arms[arm].overrides
        for rung, seed, value in itertools.product(range(3), (*study.seeds, *study.tuning.seeds), (None, 3e-05, 0.25)):
            budget = {key: study.ladder.rungs[rung] if key == "flops" else int(study.ladder.rungs[rung])}
            whole = {**study.recipe, "name": f"{study.name}-{arm}", "seed": seed, "budget": budget}
            tuned = () if value is None else (f"optimizer.lr={value!r}",)
            assert study.run_recipe(arm, rung, seed, value) == Recipe.from_json(whole, *changes, *tuned)
            assert study.run_recipe(arm, rung, seed, value).hash == Recipe.from_json(whole, *changes, *tuned).hash


def test_an_arms_recipe_is_read_once(tiny_toml, monkeypatch):
    study = Study.from_toml(tiny_toml)
    monkeypatch.setattr(Recipe, "from_json", None)
    assert study.base("muon") is study.base("muon")
    assert study.run_recipe("muon", 1, study.seeds[1]).seed == study.seeds[1]
    assert study.run_recipe("muon", 1, 5, study.grid("muon")[0]).optimizer.lr == study.grid("muon")[0]


def test_a_budget_that_does_not_fit_the_arm_is_refused_by_the_runs_name(tiny):
    base = tiny.base("adamw")
    with pytest.raises(RecipeError, match=r"budget.seconds: has no horizon, which schedule cosine needs"):
        base.having(budget=Budget(seconds=1.0))


def test_keys_of_the_recipe_within_a_study_are_known(tiny_toml):
    study = Study.from_toml(tiny_toml, "recipe.optimizer.betas.0=0.8")
    assert study.base(study.baseline).optimizer.betas[0] == 0.8
    with pytest.raises(RecipeError, match=r"override lr=1: lr: no such key; did you mean recipe\.optimizer\.lr\?"):
        Study.from_toml(tiny_toml, "lr=1")
    with pytest.raises(RecipeError, match="should have at least 1 entry, has 0"):
        Study.from_toml(tiny_toml, "arms={}")


@pytest.mark.parametrize(
    "overrides", ['["train.batch=2"]', '["optimizer.lr=0.01"]', '["optimizer=adamw", "train.batch=2"]']
)
def test_an_arm_that_is_the_baseline_is_refused(tiny, overrides):
    with pytest.raises(RecipeError, match=r"arms.same.overrides: leave adamw as it is"):
        tiny.with_(f"arms.same={{overrides={overrides}}}")

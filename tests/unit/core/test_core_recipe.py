"""Recipes: one object, one TOML file, one hash; problems all at once, each with its place."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

import toy
from isoflop.core import registry
from isoflop.core.errors import RecipeError
from isoflop.core.recipe import Budget, Recipe, Train, hash_of, json_schema
from toy import recipe

pytestmark = pytest.mark.usefixtures("toys")

NUMBERS = st.floats(min_value=1e-300, max_value=1e300)
COUNTS = st.integers(min_value=1, max_value=2**63 - 1)
TREES = st.fixed_dictionaries(
    {
        "source": st.fixed_dictionaries(
            {"name": st.just("toy"), "folder": st.text(st.characters(exclude_categories=["Cs"]))},
            optional={"weights": st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), NUMBERS)},
        ),
        "model": st.one_of(
            st.just("toy"),
            st.fixed_dictionaries(
                {"name": st.just("toy"), "mixer": st.fixed_dictionaries({"name": st.just("toy"), "window": COUNTS})},
                optional={"tied": st.booleans(), "width": st.integers(1, 99).map(lambda n: 2 * n)},
            ),
        ),
        "tokenizer": st.just("toy"),
        "objective": st.just("toy"),
        "optimizer": st.one_of(
            st.just("toytwo"),
            st.fixed_dictionaries(
                {"name": st.just("toy")},
                optional={"lr": NUMBERS, "betas": st.tuples(st.floats(0, 1), st.floats(0, 1)).map(list)},
            ),
        ),
        "schedule": st.just("toy"),
        "metrics": st.just(["toy"]),
        "budget": st.one_of(
            st.fixed_dictionaries({"steps": COUNTS}),
            st.fixed_dictionaries({"flops": NUMBERS}),
            st.fixed_dictionaries({"flops": COUNTS}),
        ),
    },
    optional={
        "name": st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True),
        "seed": st.integers(0, 2**63 - 1),
        "averaging": st.just("toy"),
        "train": st.fixed_dictionaries(
            {},
            optional={
                "batch": st.integers(1, 2**20),
                "clip": st.floats(0, 10),
                "precision": st.sampled_from(["fp32", "bf16"]),
            },
        ),
    },
)


def shuffled(tree: Any, draw: random.Random) -> Any:
    if not isinstance(tree, dict):
        return tree
    keys = list(tree)
    draw.shuffle(keys)
    return {key: shuffled(tree[key], draw) for key in keys}


@given(tree=TREES, draw=st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None)
def test_a_recipe_survives_toml_and_json_and_any_order_of_keys(tree: dict[str, Any], draw: random.Random) -> None:
    made = Recipe.from_json(tree)
    again = Recipe.from_toml(made.to_toml())
    assert (again, again.hash) == (made, made.hash)
    assert again.to_toml() == made.to_toml()
    stored = json.loads(json.dumps(made.to_json()))
    assert Recipe.from_json(shuffled(stored, draw)).hash == made.hash == hash_of(stored)
    assert made.with_("name=renamed").hash == made.hash
    assert made.differences(again) == []


def test_the_hash_never_changes() -> None:
    """Runs on disk are found by it: whoever changes this line orphans them."""
    assert recipe().hash == "01196fbeacfe33f2458c7778e3a251707bba5d0f3fb87b277f3e7f10aba483fa"
    assert recipe().id == "01196fbeacfe"


@pytest.mark.parametrize(
    "change",
    [
        "seed=4",
        "optimizer.lr=0.5",
        "model.mixer.window=5",
        "budget.steps=11",
        "train.keep=3",
        "averaging=toy",
    ],
)
def test_everything_but_the_name_is_identity(change: str) -> None:
    assert recipe(change).hash != recipe().hash
    (difference,) = {path.split(": ")[0].split(".")[0] for path in recipe().differences(recipe(change))}
    assert difference == change.partition("=")[0].split(".")[0]


def test_an_integer_where_a_float_belongs_is_the_same_recipe() -> None:
    assert recipe("optimizer.lr=1").hash == recipe("optimizer.lr=1.0").hash


def test_differences_name_the_key_and_both_values() -> None:
    other = recipe("optimizer.lr=0.5", "optimizer.betas=[0.8, 0.9]", "averaging=toy", "name=other")
    assert recipe().differences(other) == [
        "optimizer.lr: 0.001 -> 0.5",
        "optimizer.betas: [0.9,0.99] -> [0.8,0.9]",
        'averaging.name: absent -> "toy"',
        "averaging.decay: absent -> 0.99",
    ]


def test_recipes_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        recipe().seed = 1  # type: ignore[misc]
    with pytest.raises(ValueError, match="frozen"):
        recipe().optimizer.lr = 1.0  # type: ignore[attr-defined]


def test_parts_are_listed_with_their_key_paths() -> None:
    assert [path for path, _ in recipe("averaging=toy").parts()] == [
        "source",
        "tokenizer",
        "model",
        "model.mixer",
        "objective",
        "optimizer",
        "schedule",
        "averaging",
        "metrics.0",
    ]


def test_a_part_may_be_given_as_an_object() -> None:
    fields = {name: getattr(recipe(), name) for name in Recipe.model_fields}
    made = Recipe(**{**fields, "optimizer": toy.ToyOptimizer(lr=0.5)})
    assert made.hash == recipe("optimizer.lr=0.5").hash
    with pytest.raises(ValueError, match="toy is a part of slot averaging, not optimizer"):
        Recipe(**{**fields, "optimizer": toy.ToyAveraging()})


def test_a_missing_capability_is_refused_by_name() -> None:
    meant = r" \(Cacheable: a model that can decode step by step\)"
    with pytest.raises(RecipeError, match="picky needs model to be Cacheable, which toy is not" + meant):
        recipe("objective=picky")


def test_parts_may_refuse_the_whole_and_all_of_them_are_heard() -> None:
    with pytest.raises(RecipeError) as refusal:
        recipe("objective=picky", "model.heads=3", "budget={seconds=5}")
    text = str(refusal.value)
    assert "model.width: 16 is no multiple of model.heads 3" in text
    assert "picky needs model" in text
    assert "budget.seconds: has no horizon, which schedule toy needs" in text


@pytest.mark.parametrize("axis", ["flops", "steps", "tokens", "text_bytes", "seconds"])
def test_a_budget_is_on_one_axis(axis: str) -> None:
    budget = Budget.model_validate({axis: 7})
    assert (budget.axis, budget.limit) == (axis, 7.0)


@pytest.mark.parametrize(
    "tree", [{}, {"flops": 1.0, "steps": 2}, {"steps": 0}, {"flops": -1.0}, {"flops": float("inf")}]
)
def test_no_two_or_empty_budgets_are_refused(tree: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        Budget.model_validate(tree)


@pytest.mark.parametrize("name", ["", "../out", "a/b", "a\x00b", "a\n", ".hidden", "-x", "x" * 65, "é", "a b"])
def test_a_name_is_one_path_component(name: str) -> None:
    with pytest.raises(RecipeError, match="name"):
        Recipe.from_json({**recipe().to_json(), "name": name})


@pytest.mark.parametrize("device", ["cpu", "cuda", "cuda:1", "mps"])
def test_devices(device: str) -> None:
    assert Train(device=device).device == device


@pytest.fixture
def schema(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The schema of recipes with the toy parts only."""
    monkeypatch.setattr(registry, "names", lambda slot: [p.name for p in toy.PARTS if p.slot == slot])
    return json_schema()


def test_the_schema_is_one_and_names_every_field(schema: dict[str, Any]) -> None:
    Draft202012Validator.check_schema(schema)
    assert set(schema["properties"]) == set(Recipe.model_fields)
    assert {f"slot_{slot}" for slot in registry.SLOTS} <= set(schema["$defs"])
    json.dumps(schema, allow_nan=False)


@given(tree=TREES)
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_schema_accepts_every_recipe_short_or_resolved(schema: dict[str, Any], tree: dict[str, Any]) -> None:
    validator = Draft202012Validator(schema)
    for form in (tree, Recipe.from_json(tree).to_json()):
        assert not list(validator.iter_errors(form))


@pytest.mark.parametrize(
    "path",
    ["sead", "train.bach", "optimizer.learning_rate", "model.mixer.windows", "metrics.0.wait", "budget.epochs"],
)
def test_the_schema_refuses_unknown_keys_at_any_depth(schema: dict[str, Any], path: str) -> None:
    tree: Any = recipe().to_json()
    validator = Draft202012Validator(schema)
    assert not list(validator.iter_errors(tree))
    *above, last = path.split(".")
    node = tree
    for key in above:
        node = node[int(key) if key.isdecimal() else key]
    node[last] = 1
    assert list(validator.iter_errors(tree))


def test_the_schema_refuses_unknown_parts_and_wrong_types(schema: dict[str, Any]) -> None:
    validator = Draft202012Validator(schema)
    for key, value in {"optimizer": "no such", "seed": "3", "model": {"name": "no such"}, "train": 3}.items():
        assert list(validator.iter_errors({**recipe().to_json(), key: value})), key


def test_a_copy_with_other_values_can_be_made_of_a_recipe_whose_hash_was_asked_for() -> None:
    made = recipe()
    known = made.hash
    assert made.having(name="again").hash == known
    other = made.having(seed=made.seed + 1)
    assert other.hash == recipe(f"seed={made.seed + 1}").hash != known
    assert other.having(seed=made.seed).hash == known

"""What of a reference is its identity, and how it is written."""

from __future__ import annotations

import pytest

import toy
from isoflop.core.errors import RecipeError
from isoflop.core.recipe import Recipe, hash_of, json_schema

pytestmark = pytest.mark.usefixtures("toys")
START = {"run": "runs/a", "recipe": "1" * 64, "digest": "2" * 64, "vocab_size": 257}


def recipe(**start: object) -> Recipe:
    tree = Recipe.from_toml(toy.TEXT).to_json()
    return Recipe.from_json({**tree, "start": {**START, **start}})


def test_a_recipe_without_references_is_written_and_hashed_as_ever() -> None:
    tree = Recipe.from_toml(toy.TEXT).to_json()
    assert not {"start", "models"} & tree.keys()


def test_where_a_model_lies_is_no_part_of_the_identity_and_what_it_is_is() -> None:
    assert recipe(run="elsewhere/b").hash == recipe().hash
    others = [recipe(recipe="3" * 64), recipe(digest="3" * 64), recipe(optimizer=True), Recipe.from_toml(toy.TEXT)]
    assert len({recipe().hash, *(other.hash for other in others)}) == 5


def test_a_resolved_reference_survives_being_written() -> None:
    made = recipe(optimizer=True, steps=7)
    assert Recipe.from_toml(made.to_toml()) == made
    assert Recipe.from_json(made.to_json()).hash == made.hash == hash_of(made.to_json())
    assert made.with_("seed=4").start == made.start
    assert made.taken == 7
    assert made.with_("start=none").hash == Recipe.from_toml(toy.TEXT).hash


@pytest.mark.parametrize("field", ["digest", "recipe"])
def test_a_digest_that_is_none_is_refused(field: str) -> None:
    with pytest.raises(RecipeError, match=rf"start\.{field}: should be a SHA-256"):
        recipe(**{field: "xyz"})


@pytest.mark.parametrize("damaged", ["text", 3, [1], {"teacher": 5}])
def test_any_stored_value_has_a_hash(damaged: object) -> None:
    assert len(hash_of({"start": damaged, "models": damaged})) == 64


def test_the_schema_takes_what_users_write() -> None:
    start = json_schema()["properties"]["start"]
    assert {"type": "string"} in start["anyOf"]

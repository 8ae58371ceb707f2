"""How documents are read and written: "none", whole numbers, texts as typed, later keys, versions of parts."""

from typing import Annotated, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import PositiveInt

import tokenizer_toys
from isoflop.core import registry
from isoflop.core.documents import Later, Section, kinds_of, meant
from isoflop.core.errors import RecipeError
from isoflop.core.recipe import Recipe, StoredRecipe, hash_of
from isoflop.core.toml import validated
from isoflop.lab.study import Study
from isoflop.optim.optimizers.adamw import AdamWPart
from isoflop.optim.optimizers.shampoo import ShampooPart


class Inner(Section):
    size: PositiveInt = 3
    label: str | None = "x"


class Outer(Section):
    inner: Inner = Inner()
    counts: tuple[int, ...] = ()
    by_name: dict[str, Inner] = {}
    added: Annotated[bool, Later()] = False
    rate: float = 1.0


def read(tree: dict[str, Any], *overrides: str) -> Outer:
    return validated(Outer, tree, overrides, source="outer")


def test_whole_floats_are_whole_numbers_at_any_depth():
    outer = read({"inner": {"size": 1e6}, "counts": [1.0, 2], "by_name": {"a": {"size": 2.0}}})
    assert (outer.inner.size, outer.counts, outer.by_name["a"].size) == (1_000_000, (1, 2), 2)
    with pytest.raises(RecipeError, match=r"inner\.size.*got 1\.5"):
        read({"inner": {"size": 1.5}})


def test_none_reads_and_writes_as_a_word():
    outer = read({"inner": {"label": "none"}})
    assert outer.inner.label is None
    assert outer.model_dump(mode="json", exclude_none=True)["inner"] == {"size": 3, "label": "none"}
    assert read(outer.model_dump(mode="json", exclude_none=True)) == outer


def test_a_key_that_takes_text_takes_it_as_typed():
    typed = ["2024-11-05", "10:30:00", "007", "1e5", "12", "true", "1_000"]
    assert [read({}, f"inner.label={text}").inner.label for text in typed] == typed
    assert read({}, "inner.label='quoted'").inner.label == "quoted"


def test_a_date_without_quotes_in_a_file_is_a_text_and_a_number_is_told_to_take_quotes():
    toml = "name = {}\nsource='hmm'\nmodel='transformer'\nbudget.steps=5"
    assert Recipe.from_toml(toml.format("2024-11-05")).name == "2024-11-05"
    with pytest.raises(RecipeError, match=r"line 1: name: .*put it in quotes"):
        Recipe.from_toml(toml.format("2024"))


def test_a_later_key_is_written_only_where_it_is_used():
    assert "added" not in read({}).model_dump(mode="json")
    assert read({"added": True}).model_dump(mode="json")["added"] is True


def test_an_arm_can_take_a_part_away():
    recipe = Recipe.load("small", "averaging=ema", "averaging=none")
    assert recipe.averaging is None
    assert recipe.hash == Recipe.load("small").hash
    study = Study.load("demo", "recipe.averaging=ema", 'arms.muon.overrides=["optimizer=muon", "averaging=none"]')
    assert study.run_recipe("adamw", 0, study.seeds[0]).averaging is not None
    assert study.run_recipe("muon", 0, study.seeds[0]).averaging is None


def nullable() -> list[tuple[str, str, str]]:
    """Slot, part and field of every field of every part that may hold no value."""
    slots = [slot for slot in registry.SLOTS if slot in Recipe.model_fields]
    parts = [registry.get(slot, name) for slot in slots for name in registry.names(slot)]
    return [
        (cls.slot, cls.name, key)
        for cls in parts
        for key, field in cls.model_fields.items()
        if type(None) in kinds_of(field.annotation)
    ]


@pytest.fixture(scope="module")
def needed(tmp_path_factory):
    """Fields without which a part says nothing, by its name."""
    published = tokenizer_toys.directory(
        tmp_path_factory.mktemp("published") / "toy", tokenizer_toys.byte_level(), eos_token="<|endoftext|>"
    )
    read = {name: {"paths": __file__} for name in ("jsonl", "text", "files")}
    others = {"progressive": {"source": "hmm"}, "task": {"task": "sudoku"}}
    return {**read, **others, "pretrained": {"path": str(published)}}


BESIDE = {"progressive": ["objective=masked"], "task": ["tokenizer=bytes"]}
"""Other parts that one needs, by its name."""


@pytest.mark.parametrize(("slot", "name", "key"), nullable())
def test_every_field_that_may_be_none_round_trips(slot, name, key, needed):
    fields = {"name": name, key: "none", **needed.get(name, {})}
    recipe = Recipe.load("small").with_(f"{slot}={_toml(fields)}", *BESIDE.get(name, []))
    assert getattr(getattr(recipe, slot), key) is None
    assert Recipe.from_toml(recipe.to_toml()).hash == recipe.hash == Recipe.from_json(recipe.to_json()).hash
    assert getattr(getattr(Recipe.from_toml(recipe.to_toml()), slot), key) is None


def _toml(fields: dict[str, str]) -> str:
    return "{" + ", ".join(f'{key} = "{value}"' for key, value in fields.items()) + "}"


@settings(max_examples=50, deadline=None)
@given(
    grafting=st.sampled_from(["none", "adam"]),
    averaging=st.sampled_from(["none", "ema", "tail"]),
    tokens=st.integers(1, 10**9).map(float),
    clip=st.floats(0, 10),
)
def test_a_legal_recipe_round_trips_to_the_same_hash(grafting, averaging, tokens, clip):
    changes = ("optimizer=shampoo", f"optimizer.grafting={grafting}", f"averaging={averaging}", f"train.clip={clip!r}")
    recipe = Recipe.load("small", *changes, f"budget={{tokens={tokens!r}}}")
    again = Recipe.from_toml(recipe.to_toml())
    assert again == recipe
    assert again.hash == recipe.hash == hash_of(recipe.to_json())


def test_a_grafting_of_none_is_another_run():
    assert Recipe.load("small", "optimizer=shampoo", "optimizer.grafting=none").optimizer == ShampooPart(grafting=None)
    hashes = {Recipe.load("small", "optimizer=shampoo", f"optimizer.grafting={g}").hash for g in ("none", "adam")}
    assert len(hashes) == 2


def test_a_part_whose_numbers_changed_is_another_run(monkeypatch):
    before = Recipe.load("small")
    stored, hash_before = before.to_json(), before.hash
    monkeypatch.setattr(AdamWPart, "version", 2)
    after = Recipe.load("small")
    assert after.hash != hash_before
    assert after.to_json()["optimizer"]["version"] == 2
    assert Recipe.from_toml(after.to_toml()).hash == after.hash
    old = StoredRecipe.from_json(stored)
    assert old.hash == hash_before, "a stored recipe keeps its identity"
    assert StoredRecipe.from_json(after.to_json()).hash == after.hash
    assert old.differences(after) == ["optimizer.version: absent -> 2"]
    with pytest.raises(RecipeError, match=r"optimizer: version 1 of adamw computed other numbers than today's.*leave"):
        Recipe.load("small", "optimizer.version=1")
    with pytest.raises(RecipeError, match="adamw has no version 3"):
        Recipe.load("small", "optimizer.version=3")


def test_a_stored_recipe_keeps_its_versions_when_it_is_changed(monkeypatch):
    """As `isoflop eval --device` does with the recipe of an older run."""
    stored = Recipe.load("small", "optimizer=muon").to_json()
    monkeypatch.setattr(type(Recipe.load("small", "optimizer=muon").optimizer), "version", 2)
    moved = StoredRecipe.from_json(stored).with_("train.device=cuda")
    assert moved.to_json()["optimizer"] == stored["optimizer"]
    assert Recipe.load("small", "optimizer=muon").to_json()["optimizer"]["version"] == 2


def test_meant_leaves_what_no_field_knows():
    assert meant(Outer, {"nonsense": 1.0, "inner": 3}) == {"nonsense": 1.0, "inner": 3}

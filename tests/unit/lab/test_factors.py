"""Tables of two factors: the arms that follow, and an interaction that was planted."""

from __future__ import annotations

import pytest

from isoflop.core.errors import RecipeError
from isoflop.lab.compare import compare
from isoflop.lab.study import Study

FACTORS = """
[factors]
rungs = [1]
changes = { muon = ["optimizer=muon"], wsd = ["schedule=wsd"] }
"""


@pytest.fixture
def table(tiny_toml: str) -> Study:
    text = tiny_toml.replace('[arms.muon]\noverrides = ["optimizer=muon"]\n', FACTORS)
    return Study.from_toml(text.replace("rungs = [4, 8, 16]", "rungs = [4, 8, 16, 32, 64]"))


@pytest.mark.parametrize(("both", "expected"), [(3.0, 1.0), (4.5, 1.5)])
def test_the_planted_interaction_comes_out(table, planted, tmp_path, both, expected):
    executor = planted({"muon": 2.0, "wsd": 1.5, "muon-and-wsd": both})
    result = compare(table, tmp_path, executor=executor, corpus={})
    assert list(result.arms) == ["muon", "wsd", "muon-and-wsd"]
    (row,) = [row for row in result.interactions if row.axis == "tokens"]
    assert row.value == pytest.approx(expected, rel=0.05)
    assert row.low < row.value < row.high
    assert any("the product of each alone" in note for note in result.notes)


def test_a_seed_off_the_ladder_leaves_no_interaction(table, planted, tmp_path):
    executor = planted({"muon": 2.0, "wsd": 1.5, "muon-and-wsd": 100.0})
    result = compare(table, tmp_path, executor=executor, corpus={})
    assert {row.value for row in result.interactions} == {None}


def test_the_definition_makes_the_same_study_again(table):
    assert Study.from_toml(table.to_toml()) == table


def test_one_factor_is_no_table(tiny_toml):
    one = FACTORS.replace(', wsd = ["schedule=wsd"]', "")
    with pytest.raises(RecipeError, match="two changes, not 1"):
        Study.from_toml(tiny_toml + one)


def test_an_arm_that_changes_more_than_it_says_is_told(tiny, planted, tmp_path):
    """Lion's part decays three times as much as AdamW's: an arm that names only the part changes that, too."""
    lion = tiny.with_(
        'arms.muon.overrides=["optimizer=lion"]',
        "tuning.grids={adamw=[0.002, 0.004, 0.008], muon=[0.001, 0.002, 0.004]}",
    )
    result = compare(lion, tmp_path, executor=planted({"muon": 2.0}), corpus={})
    (note,) = [note for note in result.notes if "changes more than it says" in note]
    assert "optimizer.weight_decay from 0.1 to 0.3" in note
    said = lion.with_("arms.muon.overrides=['optimizer={name=\"lion\", weight_decay=0.1, betas=[0.9, 0.95]}']")
    result = compare(said, tmp_path, executor=planted({"muon": 2.0}), corpus={})
    assert not [note for note in result.notes if "changes more than it says" in note]

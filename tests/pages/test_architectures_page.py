"""The page of architectures: its recipes load, and its example runs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch

from isoflop.core.recipe import Recipe
from isoflop.core.slots import part_from

PAGE = (Path(__file__).parents[2] / "docs" / "architectures.md").read_text()
COMMANDS = [shlex.split(line) for line in re.findall(r"^isoflop .*$", PAGE, re.MULTILINE)]


@pytest.mark.parametrize("words", [words for words in COMMANDS if words[1] == "train"], ids=lambda words: words[-1])
def test_a_recipe_of_the_page_loads(words: list[str]) -> None:
    recipe = Recipe.load(*words[2:])
    assert recipe.model.shapes(recipe.vocab_size)


@pytest.mark.parametrize("words", [words for words in COMMANDS if words[1] != "train"], ids=lambda words: words[-1])
def test_a_part_of_the_page_is_one(words: list[str]) -> None:
    slot, option = {"compress": ("transform", "--with"), "generate": ("decoder", "--decoder")}[words[1]]
    assert part_from(slot, words[words.index(option) + 1])


def test_the_example_runs() -> None:
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, object] = {}
    with torch.no_grad():
        exec(example, names)
    assert names["conv"].length == 500  # type: ignore[attr-defined]

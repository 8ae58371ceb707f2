"""The page of architectures: its recipes load, and its example runs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch

from isoflop.cli.main import invoke
from isoflop.core.recipe import Recipe
from isoflop.core.slots import part_from
from isoflop.models import product_rates

PAGE = (Path(__file__).parents[2] / "docs" / "architectures.md").read_text()
COMMANDS = [shlex.split(line) for line in re.findall(r"^isoflop .*$", PAGE, re.MULTILINE)]


@pytest.mark.parametrize("words", [words for words in COMMANDS if words[1] == "train"], ids=lambda words: words[-1])
def test_a_recipe_of_the_page_loads(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in re.findall(r"^`([\w.]+)`:\n\n```toml\n(.*?)```", PAGE, re.DOTALL | re.MULTILINE):
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    recipe = Recipe.load(*words[2:])
    assert recipe.model.shapes(recipe.vocab_size)


@pytest.mark.parametrize("words", [words for words in COMMANDS if words[1] == "sizes"], ids=lambda words: words[-1])
def test_sizes_of_the_page_are_listed(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(product_rates, "_seconds", lambda size, **given: 1.0)
    assert invoke(words[1:]) == 0
    assert "the quickest: model.d_model=" in capsys.readouterr().out


PARTS = [words for words in COMMANDS if words[1] not in ("train", "sizes")]


@pytest.mark.parametrize("words", PARTS, ids=lambda words: words[-1])
def test_a_part_of_the_page_is_one(words: list[str]) -> None:
    slot, option = {"compress": ("transform", "--with"), "generate": ("decoder", "--decoder")}[words[1]]
    assert part_from(slot, words[words.index(option) + 1])


def test_the_examples_run() -> None:
    convolution, boosting = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, Any] = {}
    with torch.no_grad():
        exec(convolution, names)
    assert names["conv"].length == 500
    exec(boosting, names)
    assert names["model"].units == 40

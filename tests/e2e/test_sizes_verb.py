"""The verb sizes: what it lists, what it names, and what it refuses."""

from __future__ import annotations

import json
from typing import Any

import pytest

from isoflop.cli.main import invoke
from isoflop.core.recipe import Recipe
from isoflop.core.roles import numel
from isoflop.models import product_rates


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Narrow products take twice as long a FLOP as wide ones."""
    monkeypatch.setattr(
        product_rates, "_seconds", lambda size, **given: size[0] * size[1] * size[2] / min(size[1], 200)
    )


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert invoke(["sizes", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_it_lists_shapes_and_names_the_efficient_ones_as_overrides(capsys: pytest.CaptureFixture[str]) -> None:
    found = said(capsys, "--parameters", "3e6", "tokenizer.vocab_size=1024", "--choices", "4", "--repeats", "2")
    assert [shape["d_model"] for shape in found["shapes"]] == [160, 192, 224, 256]
    assert all(abs(shape["parameters"] / 3e6 - 1) < 0.05 and shape["spread"] == 1 for shape in found["shapes"])
    assert found["efficient"][0][0] == "model.d_model=224"
    for shape in found["efficient"]:
        recipe = Recipe.load("small", "tokenizer.vocab_size=1024", *shape)
        width = int(shape[0].partition("=")[2])
        own = next(each for each in found["shapes"] if each["d_model"] == width)
        assert numel(recipe.model.shapes(recipe.vocab_size)) == own["parameters"]


def test_it_tries_numbers_of_experts(capsys: pytest.CaptureFixture[str]) -> None:
    given = ("--experts", "4,8", "model.feed_forward=experts", "--choices", "2", "--parameters", "2e6")
    found = said(capsys, *given)
    assert [shape["experts"] for shape in found["shapes"]] == [4, 4, 8, 8]


def test_the_table_ends_with_what_to_say_to_train(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["sizes", "--parameters", "3e6", "--choices", "2", "--repeats", "1"]) == 0
    out = capsys.readouterr().out
    assert "Shapes of about 3,000,000 parameters" in out
    assert "the quickest: model.d_model=" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--experts", "4"], "the model has no experts; add model.feed_forward=experts"),
        (["--experts", "four", "model.feed_forward=experts"], "'four' are no numbers"),
        (["--experts", "1", "model.feed_forward=experts"], "2 experts cannot be chosen of 1"),
        (["model.d_model=64"], "model.d_model: is what the shapes differ in; leave it out"),
        (["model.feed_forward.hidden = 64"], "model.feed_forward.hidden: is what the shapes differ in"),
        (["--parameters", "1000"], "no shape has about 1,000 parameters"),
        (["--parameters", "nan"], "parameters cannot be"),
        (["train.device=mps"], "this machine has no device mps"),
    ],
)
def test_what_cannot_be_is_refused(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["sizes", *arguments]) == 2
    assert message in capsys.readouterr().err

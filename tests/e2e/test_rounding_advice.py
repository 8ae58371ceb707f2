"""What a dry run says of when to begin to round weights: the law's share beside the recipe's own."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from isoflop.cli.main import invoke
from isoflop.cli.rounding import rounding_advice
from isoflop.core.recipe import Recipe
from isoflop.train.run import train

Tiny = Callable[..., Path]
INT4 = 'parametrization={name="integer", bits=4, begin=0.8}'


def test_the_law_stands_beside_begin(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = Recipe.load(tiny(INT4, "schedule=wsd"))
    advice = rounding_advice(recipe, tmp_path, parameters=10**9, tokens=2 * 10**10, steps=1000)
    assert advice is not None
    assert (advice.bits, round(advice.share, 9), advice.tokens_per_byte) == (4, 0.2, 40)
    assert advice.best == pytest.approx(math.exp(-6.7297 / math.log(40)))
    assert advice.begin == pytest.approx(1 - advice.best)
    assert advice.rate == 1.0
    assert "the cool-down is fused" in advice.line()
    late = rounding_advice(recipe.with_("parametrization.begin=0.99"), tmp_path, 10**9, 2 * 10**10, 1000)
    assert late is not None
    assert "mostly over" in late.line()
    assert rounding_advice(recipe.with_("parametrization=none"), tmp_path, 10**9, 10**10, 1000) is None
    assert rounding_advice(recipe, tmp_path, 10**9, 10**10, 0) is None
    assert invoke(["train", str(tiny(INT4)), "--root", str(tmp_path / "runs"), "--dry-run", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)["rounding"]
    assert facts["share"] == pytest.approx(0.2)
    assert facts["best"] is None, "768 tokens for 9,000 parameters: the law is silent"
    assert invoke(["train", str(tiny(INT4)), "--root", str(tmp_path / "runs"), "--dry-run"]) == 0
    assert "weights of 4 bits for 20.0% of the tokens; the law says nothing of so few" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("parametrization", "bits"),
    [
        ('{name="floating", format="fp8_e4m3"}', 8),
        ('{name="mx", weights="mxfp4_e2m1"}', None),
        ('["nm", {name="integer", bits=3}]', 3),
        ("lotion", None),
    ],
)
def test_parts_that_begin_to_round_at_a_step_of_their_own_are_advised(
    parametrization: str, bits: float | None, tmp_path: Path
) -> None:
    recipe = Recipe.load("small", f"parametrization={parametrization}")
    advice = rounding_advice(recipe, tmp_path, parameters=10**6, tokens=10**8, steps=10)
    assert (advice and advice.bits) == bits


def test_a_separate_cool_down_counts_the_tokens_of_the_start(tiny: Tiny, tmp_path: Path) -> None:
    first = train(Recipe.load(tiny("budget.steps=3")), tmp_path)
    recipe = Recipe.load(tiny("budget.steps=1"), f"start={first.path}", "parametrization=integer")
    before = round(first.figure("tokens"))
    advice = rounding_advice(recipe, tmp_path, parameters=10, tokens=before // 3, steps=1)
    assert advice is not None
    assert advice.before == before > 0
    assert advice.share == pytest.approx(0.25)
    assert "separate" in advice.line()
    second = train(recipe, tmp_path)
    more = rounding_advice(Recipe.load(tiny(), f"start={second.path}", "parametrization=integer"), tmp_path, 10, 9, 1)
    assert more is not None
    assert more.before == 0, "the start was rounded already"

"""The loop's stream of data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from isoflop.core.recipe import Recipe
from isoflop.store.run import Run
from isoflop.train.run import assemble


def test_looking_ahead_shows_the_next_steps_batches_and_takes_none(tiny: Callable[..., Path], tmp_path: Path) -> None:
    recipe = Recipe.load(tiny("train.accumulate=2"))
    loop = assemble(recipe, Run.open(tmp_path / "runs", recipe))
    loop.next_batches()
    seen = loop.ahead()
    taken = loop.next_batches()
    assert len(seen) == len(taken) == 2
    assert all(torch.equal(a.inputs, b.inputs) for a, b in zip(seen, taken, strict=True))

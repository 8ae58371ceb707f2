"""Documents as rows: the answer and the ends behind it are predicted, the prompt is not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from isoflop.core.contracts import Filling
from isoflop.core.errors import DataError
from isoflop.core.recipe import Recipe
from isoflop.data.padding import DocumentRows
from isoflop.data.streams import Stream
from isoflop.data.tokenizers.bytes import Bytes
from isoflop.store.run import Run
from isoflop.train.build import assemble
from isoflop.train.run import train

EOT = 256


def pairs(folder: Path, prompt: str = "{n} and {n} are ") -> str:
    lines = [json.dumps({"prompt": prompt.format(n=n), "completion": "x" * (n % 5 + 1)}) for n in range(90)]
    (folder / "pairs.jsonl").write_text("\n".join(lines))
    source = f'{{name="jsonl", paths="{folder}/pairs.jsonl", prompt_key="prompt", deduplicate="none"}}'
    return f'source={{name="padded", source={source}}}'


def test_ends_behind_an_answer_are_predicted_or_padding() -> None:
    counts = np.array([True, False, True, True, False, True])
    stream = Stream(np.array([EOT, 10, 11, EOT, 12, EOT]), Bytes(), counts=counts)  # prompts 10 and 12
    every, one = (DocumentRows.of(stream, 5, every).batch([0, 1]) for every in (True, False))
    assert every.targets.tolist() == [[10, 11, EOT, EOT, EOT], [12, EOT, EOT, EOT, EOT]]
    assert every.mask is not None
    assert one.mask is not None
    assert every.mask.tolist() == [[False] + [True] * 4] * 2
    assert one.mask.tolist() == [[False, True, True, False, False], [False, True, False, False, False]]
    assert one.columns["documents"].tolist() == [[1, 1, 1, 0, 0], [1, 1, 0, 0, 0]]
    assert not every.columns


def test_prompts_that_fill_a_row_are_left_out_and_longer_answers_are_cut() -> None:
    counts = np.array([True, False, False, True, True, True, True])
    stream = Stream(np.array([EOT, 10, 11, EOT, 12, 13, EOT]), Bytes(), counts=counts)
    rows = DocumentRows.of(stream, 2)
    assert rows.chosen.tolist() == [1]
    assert rows.cut == 2
    assert rows.batch([0]).targets.tolist() == [[12, 13]]


def test_a_model_learns_where_answers_end(tiny: Callable[..., Path], tmp_path: Path) -> None:
    """It is shown a prompt and more places than an answer takes; behind the answer it puts ends."""
    recipe = Recipe.load(
        tiny(),
        pairs(tmp_path),
        "objective=masked",
        "train.length=24",
        "budget.steps=60",
        "train.batch=16",
        "train.evaluations=1",
        "optimizer.lr=0.02",
    )
    run = train(recipe, tmp_path / "runs")
    loop = assemble(recipe, Run.read(run.path))
    loop.load(*run.checkpoint())  # type: ignore[misc]
    batch = next(loop.parts.batches)
    assert batch.mask is not None
    filling = recipe.objective.filling(recipe.vocab_size)
    assert isinstance(filling, Filling)
    hidden = batch.mask & (torch.arange(24) >= 21)  # the last places of each row are ends
    with torch.no_grad():
        guess = filling.logits(loop.parts.model, batch.targets.masked_fill(hidden, filling.mask)).argmax(-1)
    assert (guess[hidden] == EOT).float().mean() > 0.9


def test_rows_that_no_answer_fits_into_are_told(tiny: Callable[..., Path], tmp_path: Path) -> None:
    recipe = Recipe.load(tiny(), pairs(tmp_path, "{n} " * 20), "objective=masked", "train.length=8")
    with pytest.raises(DataError, match="no document of which anything is predicted in 8 tokens"):
        assemble(recipe, Run.open(tmp_path / "runs", recipe))

"""The masked-diffusion objective: its gradient, and what it trains; its dialects are in another file."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from isoflop.core.contracts import Draws, Filling, TokenBatch
from isoflop.core.recipe import Recipe
from isoflop.core.registry import get
from isoflop.core.rng import Rng
from isoflop.objectives.losses.masked import Masked
from isoflop.train.run import train
from transformer_toys import context

TEXT_IDS, LENGTH = 3, 4  # and the mask, id 3


@pytest.fixture(scope="module")
def model() -> Any:
    part: Any = get("model", "transformer")(d_model=16, layers=1, mixer={"name": "attention", "heads": 2})  # type: ignore[call-arg]
    built = part.build(context(vocab_size=TEXT_IDS + 1))
    with torch.no_grad():
        for p in built.parameters():
            p.mul_(2)  # far from uniform
    return built


def objective(model: Any, samples: int = 8) -> Masked:
    full: Any = get("pattern", "full")()
    return Masked(model, Filling(mask=TEXT_IDS, ids=TEXT_IDS, pattern=full), samples=samples)


def batch_of(x: torch.Tensor, rows: int, step: int = 0, mask: torch.Tensor | None = None) -> TokenBatch:
    targets = x.expand(rows, LENGTH)
    mask = None if mask is None else mask.expand(rows, LENGTH)
    return TokenBatch(targets, targets, 0, mask, draws=Draws(Rng(5), step))


def test_what_does_not_count_is_shown_and_costs_nothing(model: Any) -> None:
    x, mask = torch.tensor([0, 1, 2, 1]), torch.tensor([False, False, True, True])
    hidden, weight = objective(model).corrupt(batch_of(x, 64, mask=mask))
    assert not hidden[:, :2].any()
    assert not weight[:, :2].any()
    assert hidden[:, 2:].any()
    assert torch.equal(weight > 0, hidden)


def test_the_gradient_is_that_of_the_loss(model: Any) -> None:
    batch = batch_of(torch.tensor([0, 1, 2, 1]), 3)
    live = objective(model)
    p = model.blocks[0].mixer.q.weight
    model.zero_grad()
    live.loss(batch).total.backward()
    direction = torch.randn(p.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        values = []
        for step in (1e-3, -1e-3):
            p.add_(direction, alpha=step)
            values.append(float(live.loss(batch).total))
            p.add_(direction, alpha=-step)
    assert (values[0] - values[1]) / 2e-3 == pytest.approx(float((p.grad * direction).sum()), rel=1e-2)


def test_a_masked_model_trains_resumes_and_is_measured_as_a_bound(tmp_path: Any) -> None:
    recipe = Recipe.load(
        "small",
        'source={name="hmm", text_bytes=20000, heldout_bytes=1000}',
        "tokenizer=bytes",
        "model={name='transformer', d_model=32, layers=1}",
        "train={length=16, batch=8, evaluations=2, isolate_documents=true}",
        "objective=masked",
        "optimizer.lr=0.01",
        "budget={steps=60}",
    )
    run = train(recipe, tmp_path, audit=True)
    losses = [record["loss"] for record in run.metrics("step")]
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])
    evaluations = run.metrics("evaluation")
    assert evaluations[-1]["value"] < evaluations[0]["value"] + 0.5
    again = train(recipe.with_("name=again"), tmp_path / "again")
    assert again.result["weights_sha256"] == run.result["weights_sha256"]

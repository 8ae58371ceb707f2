"""The masked-diffusion bound: exact on a model small enough to enumerate, and above -log p."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from isoflop.core.contracts import Draws, TokenBatch
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
    return Masked(model, TEXT_IDS, get("pattern", "full")(), samples)  # type: ignore[arg-type]


def exact_bound(model: Any, x: torch.Tensor) -> float:
    """sum over n of (1/n) times the mean over all sets of n hidden positions of their loss (every mask enumerated)."""
    full: Any = get("pattern", "full")()
    total = 0.0
    for n in range(1, LENGTH + 1):
        losses = []
        for chosen in itertools.combinations(range(LENGTH), n):
            hidden = torch.zeros(LENGTH, dtype=torch.bool)
            hidden[list(chosen)] = True
            logits = model(torch.where(hidden, TEXT_IDS, x)[None], full)[0, :, :TEXT_IDS]
            losses.append(float(torch.nn.functional.cross_entropy(logits[hidden], x[hidden], reduction="sum")))
        total += sum(losses) / len(losses) / n
    return total


def batch_of(x: torch.Tensor, rows: int, step: int = 0, mask: torch.Tensor | None = None) -> TokenBatch:
    targets = x.expand(rows, LENGTH)
    mask = None if mask is None else mask.expand(rows, LENGTH)
    return TokenBatch(targets, targets, 0, mask, draws=Draws(Rng(5), step))


@torch.no_grad()
@pytest.mark.parametrize("text", [[0, 1, 2, 1], [2, 2, 2, 2]])
def test_the_estimate_is_the_enumerated_bound(model: Any, text: list[int]) -> None:
    x, rows = torch.tensor(text), 4096
    estimates = torch.stack([objective(model).loss(batch_of(x, rows, step)).total for step in range(8)]) / rows
    exact, error = exact_bound(model, x), float(estimates.std()) / 8**0.5
    assert float(estimates.mean()) == pytest.approx(exact, abs=4 * error)
    assert error < 0.02 * exact, "close enough to tell a wrong weight"
    measured = objective(model).nll(batch_of(x, rows)).total / rows
    assert float(measured) == pytest.approx(exact, rel=0.02)


@torch.no_grad()
def test_it_is_a_bound_of_any_order(model: Any) -> None:
    """The bound is the mean over orders of -log p in that order, so no less than -log of the mean of p (Jensen)."""
    x = torch.tensor([0, 1, 2, 1])
    full: Any = get("pattern", "full")()
    logs = []
    for order in itertools.permutations(range(LENGTH)):
        shown, log = torch.full((LENGTH,), TEXT_IDS), 0.0
        for place in order:
            logits = model(shown[None], full)[0, place, :TEXT_IDS]
            log += float(torch.log_softmax(logits, -1)[x[place]])
            shown[place] = x[place]
        logs.append(log)
    probabilities = torch.tensor(logs).exp()
    assert exact_bound(model, x) == pytest.approx(-sum(logs) / len(logs), rel=1e-5)
    assert exact_bound(model, x) >= -float(probabilities.mean().log())


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

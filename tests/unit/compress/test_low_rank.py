"""LoRA, rsLoRA and DoRA beside their formulas in float64, with gradients; DoRA where it starts and where it resumes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from isoflop.core.recipe import Recipe
from isoflop.core.registry import get
from isoflop.core.rng import Rng
from isoflop.store.run import Run
from isoflop.train.build import assemble
from isoflop.train.restore import trained
from isoflop.train.run import train

KINDS: dict[str, dict[str, Any]] = {
    "lora": {"name": "lora"},
    "rslora": {"name": "lora", "rank_stabilized": True},
    "dora": {"name": "dora"},
    "dora rank-stabilized": {"name": "dora", "rank_stabilized": True},
}


def reference(kind: str, w: torch.Tensor, a: torch.Tensor, b: torch.Tensor, m: torch.Tensor, alpha: float) -> Any:
    """The weight that each method means, differentiable where the method is."""
    rank = a.shape[0]
    moved = w + alpha / (math.sqrt(rank) if "rs" in kind or "stabilized" in kind else rank) * b @ a
    if not kind.startswith("dora"):
        return moved
    return m[:, None] * moved / moved.detach().square().sum(1, keepdim=True).sqrt()


@pytest.mark.parametrize("kind", KINDS)
def test_products_and_gradients_are_those_of_the_formula(kind: str) -> None:
    fields = {key: value for key, value in KINDS[kind].items() if key != "name"}
    part: Any = get("parametrization", KINDS[kind]["name"])(rank=4, alpha=6.0, **fields)
    draw = torch.Generator().manual_seed(0)
    w, x, g = (torch.randn(*shape, generator=draw).double() for shape in ((7, 5), (3, 5), (3, 7)))
    live = part.build(7, 5, Rng(1)).double()
    with torch.no_grad():
        for p in live.parameters():
            p.copy_(torch.randn(p.shape, generator=draw).double())
    ours = dict(live.named_parameters())
    copies = {name: p.detach().clone().requires_grad_() for name, p in ours.items()}
    m = copies.get("magnitude.weight", torch.ones(7).double())
    (live.product(w, torch.float64)(x) * g).sum().backward()
    (x @ reference(kind, w, copies["A"], copies["B"], m, 6.0).T * g).sum().backward()
    for name, p in ours.items():
        torch.testing.assert_close(p.grad, copies[name].grad, atol=1e-12, rtol=1e-12)


def test_a_row_of_zeros_stays_zero() -> None:
    live = get("parametrization", "dora")().build(3, 5, Rng(1))  # type: ignore[call-arg]
    weight = torch.randn(3, 5)
    weight[1] = 0
    live.begin_from(weight)
    torch.testing.assert_close(live.finalize(weight), weight)


def test_dora_starts_as_the_model_that_it_starts_from_and_resumes_to_the_byte(
    tiny: Callable[..., Path], tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    first = train(Recipe.load(tiny("budget.steps=3", "optimizer.lr=0.1")), runs)
    recipe = Recipe.load(
        tiny("budget.steps=4", "train.checkpoints=4", "train.keep=4", 'parametrization={name="dora", rank=2}'),
        f"start={first.path}",
    )
    ids = torch.arange(32).view(2, 16)
    loop = assemble(recipe, Run.open(runs, recipe))
    with torch.no_grad():
        torch.testing.assert_close(loop.parts.model(ids), trained(first).model(ids), rtol=1e-5, atol=1e-5)
    whole = train(recipe, runs, name="whole")
    cut = train(recipe, runs, name="cut")
    for step in (3, 4):
        for file in sorted((cut.path / f"checkpoints/{step}").iterdir()):
            file.unlink()
        (cut.path / f"checkpoints/{step}").rmdir()
    (cut.path / "result.json").unlink()
    cut.set_status("stopped", step=2)
    again = train(recipe, runs, name="cut")
    assert [event["step"] for event in again.events("resumed")] == [2]
    assert again.result["weights_sha256"] == whole.result["weights_sha256"]


def test_a_key_that_came_later_leaves_old_hashes() -> None:
    old = Recipe.load("small", 'parametrization={name="lora"}').to_json()["parametrization"]
    assert json.loads(json.dumps(old)) == {"name": "lora", "targets": ["*"], "rank": 8, "alpha": 16.0}

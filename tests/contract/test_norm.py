"""What every part of the slot norm must do, in itself and in a model."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch

from isoflop.core.contracts import NormPart, Treatment
from isoflop.core.errors import RecipeError
from isoflop.core.recipe import Recipe
from isoflop.core.registry import get, names
from isoflop.core.roles import parameter_groups, shapes_of
from isoflop.ledger.audit import Audit
from isoflop.models.kernels import reference_rms_norm
from isoflop.train.run import train
from transformer_toys import VOCAB, context, part

CASES: list[tuple[str, dict[str, Any]]] = [*((name, {}) for name in names("norm")), ("layer", {"bias": False})]
"""Every norm by default, and its other forms."""
HEADS = [(*case, tied) for case in CASES for tied in (False, True) if case[0] != "none" or not tied]
"""With and without a tied head, which needs a gain."""
WIDTH, EPS = 12, 1e-3


def by_definition(name: str, module: Any, x: torch.Tensor) -> torch.Tensor:
    """What the norm's file, or for ``rms`` the kernel's, says that it computes."""
    if name == "rms":
        return reference_rms_norm(x, module.weight, EPS, x.dtype)
    reference = importlib.import_module(f"isoflop.models.norms.{name}").reference
    return reference(x, *(getattr(module, own, None) for own in ("weight", "bias")), EPS)  # type: ignore[no-any-return]


def part_of(name: str, fields: dict[str, Any]) -> NormPart:
    return get("norm", name)(**fields)  # type: ignore[return-value]


def stirred(name: str, fields: dict[str, Any]) -> tuple[NormPart, torch.nn.Module, torch.Tensor]:
    """A norm whose parameters have left their start, and vectors with a mean and a scale, in float64."""
    norm = part_of(name, fields)
    module, draw = norm.build(WIDTH, EPS).double(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(torch.randn(p.shape, generator=draw, dtype=p.dtype))
    return norm, module, 3 * torch.randn(2, 5, WIDTH, generator=draw, dtype=torch.float64) + 1


@pytest.mark.parametrize(("name", "fields"), CASES)
def test_it_says_what_it_owns_and_is_its_definition(name: str, fields: dict[str, Any]) -> None:
    norm, module, x = stirred(name, fields)
    assert norm.card.summary
    assert sorted(shapes_of(parameter_groups(module)), key=str) == sorted(norm.shapes(WIDTH), key=str)
    torch.testing.assert_close(module(x, torch.float64), by_definition(name, module, x), rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(lambda x, *_: module(x, torch.float64), (x.requires_grad_(), *module.parameters()))


@pytest.mark.parametrize(("name", "fields"), CASES)
def test_it_computes_in_fp32_and_returns_what_is_asked_for(name: str, fields: dict[str, Any]) -> None:
    _, module, x = stirred(name, fields)
    exact = module(x, torch.float64)
    module.float()
    out, half = module(x.float(), torch.float32), module(x.float(), torch.bfloat16)
    assert (out.dtype, half.dtype) == (torch.float32, torch.bfloat16)
    torch.testing.assert_close(out.double(), exact, rtol=1e-5, atol=1e-6)
    assert torch.equal(half, out.bfloat16()), "rounded once, at the end"


@pytest.mark.parametrize(("name", "fields"), CASES)
def test_a_new_one_keeps_vectors_at_one_scale(name: str, fields: dict[str, Any]) -> None:
    x = 100 * torch.randn(50, 64, generator=torch.Generator().manual_seed(0))
    out = part_of(name, fields).build(64, EPS)(x, torch.float32).detach()
    if name == "none":
        assert torch.equal(out, x)
        return
    assert float(out.square().mean()) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("frozen", [(), ("norm",), ("embedding", "blocks.0.mixer_norm.*"), ("bias", "embedding")])
@pytest.mark.parametrize(("name", "fields", "tied"), HEADS)
def test_a_model_with_it_is_charged_what_it_executes(
    name: str, fields: dict[str, Any], tied: bool, frozen: tuple[str, ...]
) -> None:
    chosen = part(tied=tied, norm={"name": name, **fields}).treated(Treatment(freeze=frozen))
    model, x = chosen.build(context()), torch.arange(22).reshape(2, 11)
    assert sorted(shapes_of(parameter_groups(model)), key=str) == sorted(chosen.trained_shapes(VOCAB), key=str)
    with Audit() as audit:
        model(x).square().mean().backward()
    assert audit.total() == chosen.work(2, 11, VOCAB).total.executed
    cache = model.make_cache(2, 4)
    with torch.no_grad():
        steps = torch.cat([model.step(piece, cache) for piece in x.split([3, 1, 7], 1)], 1)
        torch.testing.assert_close(steps, model(x), rtol=0, atol=1e-5)


TINY = (
    'source={name="hmm", text_bytes=20000, heldout_bytes=1000}',
    "tokenizer=bytes",
    "model={name='transformer', d_model=16, layers=1}",
    "train={length=16, batch=2, evaluations=1, checkpoints=2}",
)


@pytest.mark.parametrize(("name", "fields"), CASES)
def test_it_trains_under_audit_and_learns(name: str, fields: dict[str, Any], tmp_path: Path) -> None:
    keys = [f"model.norm.{key}={str(value).lower()}" for key, value in fields.items()]
    run = train(Recipe.load("small", *TINY, f"model.norm={name}", *keys, "budget.steps=30"), tmp_path, audit=True)
    assert run.result["status"] == "done"
    losses = [record["loss"] for record in run.metrics("step")]
    assert losses[-1] < 0.9 * losses[0]


def test_the_norm_of_old_recipes_is_no_key_of_theirs() -> None:
    old = Recipe.load("small")
    for said in ("model.norm=rms", 'model.norm={name="rms"}'):
        assert "norm" not in (made := Recipe.load("small", said)).to_json()["model"]
        assert made.hash == old.hash
    other = Recipe.load("small", "model.norm=layer")
    assert other.to_json()["model"]["norm"] == {"name": "layer", "bias": True}
    assert Recipe.from_toml(other.to_toml()).hash == other.hash != old.hash


def test_a_tied_head_needs_a_gain() -> None:
    assert Recipe.load("small", "model.norm=none", "model.tied=false")
    with pytest.raises(RecipeError, match=r"model\.norm: none has no gain, which a tied head needs"):
        Recipe.load("small", "model.norm=none", "model.tied=true")

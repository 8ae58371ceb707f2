"""What a Transformer can be beyond its defaults: each variant is charged what it executes, and steps as it runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from isoflop.core.contracts import Treatment
from isoflop.core.errors import RecipeError, UsageError
from isoflop.core.recipe import Recipe
from isoflop.core.registry import names
from isoflop.core.roles import parameter_groups, shapes_of
from isoflop.ledger.audit import Audit
from isoflop.models.transformer import Transformer
from isoflop.objectives.linear_cross_entropy import linear_cross_entropy
from transformer_toys import VOCAB, context, part

WINDOW = {"name": "window", "size": 5}
VARIANTS: dict[str, dict[str, Any]] = {
    "biases": {
        "mixer": {"heads": 4, "bias": True, "out_bias": True},
        "feed_forward": {"name": "swiglu", "bias": True},
        "norm": "layer",
    },
    "bias_of_projections_alone": {"mixer": {"heads": 4, "kv_heads": 2, "bias": True}},
    "gpt2": {
        "mixer": {"heads": 4, "bias": True, "out_bias": True, "position": "none"},
        "feed_forward": {"name": "gelu", "bias": True},
        "norm": "layer",
        "positions": 40,
        "tied": True,
        "embedding_scale": 1.0,
    },
    "odd_heads": {"d_model": 30, "mixer": {"heads": 6, "position": "none"}, "positions": 30},
    "partial": {"mixer": {"heads": 4, "position": {"name": "rotary", "fraction": 0.25}}, "arrangement": "parallel"},
    "output_norms": {
        "arrangement": "output_norm",
        "mixer": {"heads": 4, "kv_heads": 2, "qk_norm": True, "qk_norm_whole": True},
    },
    "gemma2": {
        "arrangement": "sandwich",
        "norm": "rms_offset",
        "tied": True,
        "cap": 2.0,
        "feed_forward": "geglu",
        "mixer": {"heads": 4, "kv_heads": 1, "head_dim": 10, "scale": 0.2, "cap": 1.5, "pattern": WINDOW},
    },
    "gemma3": {
        "arrangement": "sandwich",
        "norm": "rms_offset",
        "feed_forward": {"name": "geglu", "exact": True, "bias": True},
        "mixer": {"heads": 2, "qk_norm": True, "qk_norm_by": "rms_offset", "theta": 1e6},
    },
    "llama3": {"mixer": {"heads": 4, "position": {"name": "llama3", "original": 16, "low": 0.5, "high": 2.0}}},
    "yarn": {"mixer": {"heads": 4, "position": {"name": "yarn", "original": 16, "fast": 2.0, "slow": 0.5}}},
    "exact_gelu": {"feed_forward": {"name": "gelu", "exact": True}},
}


def tokens(batch: int, length: int) -> Tensor:
    return torch.randint(0, VOCAB, (batch, length), generator=torch.Generator().manual_seed(3))


def stirred(variant: str, **changes: Any) -> Transformer:
    """A model whose parameters have all left their start."""
    model: Transformer = part(**VARIANTS[variant]).build(context(**changes))
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=draw))
    return model


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("frozen", [(), ("hidden",), ("embedding", "norm"), ("bias",), ("embedding", "*.q.weight")])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_is_charged_what_it_executes(variant: str, frozen: tuple[str, ...], precision: str) -> None:
    chosen = part(**VARIANTS[variant]).treated(Treatment(freeze=frozen))
    model = chosen.build(context(precision=precision))
    assert sorted(shapes_of(parameter_groups(model)), key=str) == sorted(chosen.trained_shapes(VOCAB), key=str)
    x = tokens(2, 23)
    with Audit() as audit:
        linear_cross_entropy(model.hidden(x), model.head, x, cap=model.cap).backward()  # type: ignore[no-untyped-call]
    assert audit.total() == chosen.work(2, 23, VOCAB).total.executed
    for name, p in model.named_parameters():
        assert (p.grad is not None and bool(p.grad.isfinite().all())) == p.requires_grad, name


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_cached_steps_equal_one_forward(variant: str) -> None:
    model, x = stirred(variant), tokens(2, 26)
    full, cache = model(x), model.make_cache(2, 3)
    first = model.step(x[:, :7], cache)
    model.step(tokens(2, 4), cache)
    cache.truncate(7)
    steps = [first, model.step(x[:, 7:12], cache), *(model.step(x[:, i : i + 1], cache) for i in range(12, 26))]
    torch.testing.assert_close(torch.cat(steps, 1), full, rtol=0, atol=2e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_parameter_changes_the_logits_and_the_loss_is_that_of_the_logits(variant: str) -> None:
    model, x = stirred(variant), tokens(2, 26)
    loss = linear_cross_entropy(model.hidden(x), model.head, x, cap=model.cap)
    torch.testing.assert_close(loss, F.cross_entropy(model(x).flatten(0, 1), x.flatten(), reduction="sum"))
    loss.backward()  # type: ignore[no-untyped-call]
    for name, p in model.named_parameters():
        bias_of_keys = name.endswith("mixer.k.bias") and "position" in VARIANTS[variant]["mixer"]
        assert p.grad is not None, name
        assert bias_of_keys or p.grad.abs().max() > 0, f"{name} has no effect"


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_the_forms_that_torch_func_sees_equal_the_eager_ones(variant: str) -> None:
    model, x = stirred(variant), tokens(2, 26)
    weights = {name: p.detach() for name, p in model.named_parameters()}
    still = {name: torch.zeros_like(p) for name, p in weights.items()}
    plain, _ = torch.func.jvp(lambda w: torch.func.functional_call(model, w, (x,)), (weights,), (still,))
    torch.testing.assert_close(plain, model(x), rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("arrangement", names("arrangement"))
@torch.no_grad()
def test_an_arrangement_is_its_equation(arrangement: str) -> None:
    model = part(layers=1, arrangement=arrangement).build(context())
    (block,) = model.blocks
    x = torch.randn(1, 9, 32, generator=torch.Generator().manual_seed(5))
    mixer, feed_forward = (
        lambda y, layer=layer, product=product: layer(y, product)  # type: ignore[misc]
        for layer, product in zip((block.mixer, block.feed_forward), block.products(), strict=True)
    )
    norm = {name: lambda y, own=m: own(y, torch.float32) for name, m in block.named_children() if "norm" in name}
    if arrangement == "pre_norm":
        h = x + mixer(norm["mixer_norm"](x))
        wanted = h + feed_forward(norm["feed_forward_norm"](h))
    elif arrangement == "output_norm":
        h = x + norm["mixer_norm"](mixer(x))
        wanted = h + norm["feed_forward_norm"](feed_forward(h))
    elif arrangement == "sandwich":
        h = x + norm["mixer_output_norm"](mixer(norm["mixer_norm"](x)))
        wanted = h + norm["feed_forward_output_norm"](feed_forward(norm["feed_forward_norm"](h)))
    elif arrangement == "parallel":
        wanted = x + mixer(norm["mixer_norm"](x)) + feed_forward(norm["feed_forward_norm"](x))
    else:
        pytest.fail("a new arrangement: write its equation here")
    torch.testing.assert_close(block(x), wanted, rtol=0, atol=1e-6)


def test_texts_longer_than_learned_positions_are_refused() -> None:
    model = part(**VARIANTS["gpt2"]).build(context())
    with pytest.raises(UsageError, match="41 tokens are more than the 40 positions"):
        model(tokens(1, 41))
    cache = model.make_cache(1, 50)
    model.step(tokens(1, 40), cache)
    with pytest.raises(UsageError, match="41 tokens are more than the 40 positions"):
        model.step(tokens(1, 1), cache)


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("model.positions=4", r"model\.positions: 4 are fewer than train\.length = 128"),
        ("model.mixer={name='attention', head_dim=5}", r"mixer\.head_dim: is 5, but rotary positions need an even one"),
        (
            "model.mixer={name='attention', head_dim=8, position={name='rotary', fraction=0.4}}",
            r"mixer\.position\.fraction: 0\.4 of 8 numbers is 3, but pairs turn",
        ),
    ],
)
def test_variants_that_cannot_be_are_refused(override: str, problem: str) -> None:
    with pytest.raises(RecipeError, match=problem):
        Recipe.load("small", "tokenizer=bytes", override)


def test_a_new_key_at_its_default_is_no_key_of_old_recipes() -> None:
    old = Recipe.load("small")
    said = ["arrangement='pre_norm'", "positions='none'", "cap='none'"]
    said += [f"mixer.{key}" for key in ("position='rotary'", "bias=false", "out_bias=false", "qk_norm_by='rms'")]
    said += ["mixer.qk_norm_whole=false", "mixer.scale='none'", "mixer.cap='none'", "feed_forward.bias=false"]
    assert Recipe.load("small", *(f"model.{each}" for each in said)).hash == old.hash

"""The Transformer: causality, cache, precision, initialisation, agreement of its parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import toy
from isoflop.core.recipe import Recipe, StoredRecipe
from isoflop.core.registry import names
from isoflop.core.rng import Rng
from isoflop.core.roles import parameter_groups
from isoflop.models.cache import KeyValues
from isoflop.models.layers import RmsNorm, oppose
from isoflop.models.transformer import Transformer
from transformer_toys import VOCAB, context

Build = Callable[..., Transformer]
SHAPES = {
    "plain": {},
    "grouped": {"mixer": {"heads": 4, "kv_heads": 2}},
    "one_kv_head": {"mixer": {"heads": 4, "kv_heads": 1, "qk_norm": True}, "tied": True},
    "wide_heads": {"mixer": {"heads": 2, "head_dim": 24}, "feed_forward": "gelu"},
    "primer": {"feed_forward": "squared_relu", "layers": 3, "d_model": 24},
}


def tokens(batch: int, length: int, seed: int = 0) -> Tensor:
    return torch.randint(0, VOCAB, (batch, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", SHAPES)
def test_logits_do_not_depend_on_later_tokens(build: Build, shape: str) -> None:
    model, x = build(**SHAPES[shape]), tokens(2, 70)
    changed = x.clone()
    changed[:, 66] = (x[:, 66] + 1) % VOCAB
    before, after = model(x), model(changed)
    torch.testing.assert_close(before[:, :66], after[:, :66], rtol=0, atol=1e-6)
    assert (before[:, 66:] - after[:, 66:]).abs().amax(-1).min() > 1e-4, "a later logit ignores the change"


@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_cached_steps_equal_one_forward(build: Build, shape: str) -> None:
    """One token or several at a time, truncated and gone over again; beyond the trained length too."""
    model, x = build(**SHAPES[shape]), tokens(2, 40)
    full = model(x)
    cache = model.make_cache(2, 40)
    first = model.step(x[:, :7], cache)
    model.step(tokens(2, 5, seed=1), cache)
    cache.truncate(7)
    rest = [model.step(x[:, 7:12], cache), *(model.step(x[:, i : i + 1], cache) for i in range(12, 40))]
    torch.testing.assert_close(torch.cat([first, *rest], 1), full, rtol=0, atol=1e-5)
    assert cache.length == 40


@torch.no_grad()
def test_cached_positions_continue(build: Build) -> None:
    """A position that restarts or is shifted in the cached path changes these logits by far more than the bound."""
    model, x = build(), tokens(1, 12)
    cache = model.make_cache(1, 12)
    model.step(x[:, :11], cache)
    last = model.step(x[:, 11:], cache)[:, 0]
    torch.testing.assert_close(last, model(x)[:, -1], rtol=0, atol=1e-5)
    mixer = model.blocks[0].mixer  # type: ignore[index]
    mixer.cos, mixer.sin = mixer.cos.roll(1, 0), mixer.sin.roll(1, 0)  # every position one late, but for the first
    shifted = model.make_cache(1, 12)
    model.step(x[:, :11], shifted)
    assert (model.step(x[:, 11:], shifted)[:, 0] - last).abs().max() > 1e-4, "the test cannot see positions"


def by_definition(model: Transformer, x: Tensor, heads: int, kv_heads: int, scale: float) -> Tensor:
    """Logits of a SwiGLU model for one sequence, in float64, head by head; positions turn complex numbers."""
    p = {name: w.detach().double() for name, w in model.named_parameters()}

    def norm(h: Tensor, gain: Tensor) -> Tensor:
        return h / (h.square().mean(-1, keepdim=True) + 1e-5).sqrt() * gain

    def turned(h: Tensor) -> Tensor:
        a, b = h.chunk(2, -1)
        rates = 10_000.0 ** -(torch.arange(a.shape[1], dtype=torch.float64) / a.shape[1])
        turns = torch.complex(a, b) * torch.exp(1j * torch.outer(torch.arange(len(x)).double(), rates))
        return torch.cat((turns.real, turns.imag), -1)

    h = p["embedding.weight"][x] * scale
    for layer in range(len(list(model.blocks))):
        w = {name.split(".", 2)[2]: value for name, value in p.items() if name.startswith(f"blocks.{layer}.")}
        g = norm(h, w["mixer_norm.weight"])
        q, k, v = (g @ w[f"mixer.{name}.weight"].T for name in "qkv")
        d, mixed = q.shape[1] // heads, []
        for head in range(heads):
            kv = head * kv_heads // heads
            one_q, one_k, one_v = q[:, head * d :][:, :d], k[:, kv * d :][:, :d], v[:, kv * d :][:, :d]
            if "mixer.q_norm.weight" in w:
                one_q, one_k = norm(one_q, w["mixer.q_norm.weight"]), norm(one_k, w["mixer.k_norm.weight"])
            scores = (turned(one_q) @ turned(one_k).T / d**0.5).tril().exp().tril()
            mixed.append(scores / scores.sum(-1, keepdim=True) @ one_v)
        h = h + torch.cat(mixed, -1) @ w["mixer.out.weight"].T
        g = norm(h, w["feed_forward_norm.weight"])
        gate, up = (g @ w[f"feed_forward.{name}.weight"].T for name in ("gate", "up"))
        h = h + gate * gate.sigmoid() * up @ w["feed_forward.down.weight"].T
    return norm(h, p["norm.weight"]) @ (p.get("unembedding.weight", p["embedding.weight"])).T


@pytest.mark.parametrize(
    ("mixer", "outer", "scale"),
    [
        ({"heads": 4}, {}, 1.0),
        ({"heads": 4, "kv_heads": 2}, {"tied": True}, 32**0.5),
        ({"heads": 2, "kv_heads": 1, "qk_norm": True}, {"embedding_scale": 12.0}, 12.0),
        ({"heads": 4}, {"tied": True, "embedding_scale": 1.0}, 1.0),
    ],
)
@torch.no_grad()
def test_logits_equal_the_definition(build: Build, mixer: dict[str, Any], outer: dict[str, Any], scale: float) -> None:
    model, x = build(mixer=mixer, **outer), tokens(1, 70)
    for name, weight in model.named_parameters():
        if name.endswith("norm.weight"):  # gains of 1 would hide that one is left out
            weight.copy_(torch.linspace(0.5, 1.5, len(weight)))
    slow = by_definition(model, x[0], mixer["heads"], mixer.get("kv_heads", mixer["heads"]), scale)
    torch.testing.assert_close(model(x)[0].double(), slow, rtol=0, atol=1e-5)


@pytest.mark.parametrize("capacity", [0, 1, 4, 7])
@torch.no_grad()
def test_a_cache_grows_with_what_it_holds(build: Build, capacity: int) -> None:
    """Its room is a beginning, no bound, and changes no number; beyond the trained length too."""
    model, x = build(mixer={"heads": 4, "kv_heads": 2}), tokens(2, 300)
    small, large = model.make_cache(2, capacity), model.make_cache(2, 300)
    for piece in x.split([7, *[1] * 20, 100, *[1] * 173], 1):
        assert torch.equal(model.step(piece, small), model.step(piece, large))
    assert small.length == 300
    room = small.layers[0].capacity
    assert 300 <= room <= 600
    small.truncate(10)
    again = model.step(x[:, 10:12], small)
    torch.testing.assert_close(again, model.step(x[:, :12], model.make_cache(2, 1))[:, 10:], rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_cache_keeps_the_weights_it_was_made_with(build: Build) -> None:
    model, x = build("bf16"), tokens(1, 6)
    cache, before = model.make_cache(1, 6), model(x)
    for block in model.blocks:
        block.mixer.q.weight.zero_()
    torch.testing.assert_close(model.step(x, cache), before, rtol=0.02, atol=0.02)
    assert (model(x) - before).abs().max() > 0.1


@torch.no_grad()
def test_a_mask_replaces_the_causal_one(build: Build) -> None:
    model, x = build(mixer={"heads": 4, "kv_heads": 2}), tokens(2, 70)
    causal = torch.ones(70, 70, dtype=torch.bool).tril()
    torch.testing.assert_close(model(x, causal), model(x), rtol=0, atol=1e-5)
    both = torch.stack([causal, torch.ones_like(causal)])
    out = model(x, both)
    torch.testing.assert_close(out[0], model(x)[0], rtol=0, atol=1e-5)
    assert (out[1] - model(x)[1]).abs().max() > 1e-3, "the full mask changed nothing"
    apart = causal.clone()
    apart[30:, :30] = False  # two documents in one sequence: attention is relative, so the second stands alone
    torch.testing.assert_close(model(x, apart)[:, 30:], model(x[:, 30:]), rtol=0, atol=1e-4)


def test_bf16_is_close_to_fp32_and_its_weights_and_gradients_are_fp32(build: Build) -> None:
    exact, rounded = build(), build("bf16")
    x = tokens(2, 33)
    with torch.no_grad():
        assert exact(x).dtype == torch.float32
        assert rounded(x).dtype == torch.bfloat16
        error = (rounded(x).float() - exact(x)).norm() / exact(x).norm()
    assert 0 < error < 0.02
    for model in (exact, rounded):
        model(x).float().square().mean().backward()  # type: ignore[no-untyped-call]
    for (name, p), q in zip(exact.named_parameters(), rounded.parameters(), strict=True):
        assert q.dtype == q.grad.dtype == torch.float32  # type: ignore[union-attr]
        assert (p.grad - q.grad).norm() < 0.05 * p.grad.norm(), name  # type: ignore[union-attr, operator]


def test_initialisation_depends_on_the_seed_alone(build: Build) -> None:
    torch.manual_seed(1)
    first = build().state_dict()
    torch.manual_seed(2)
    state = torch.get_rng_state()
    again, other = build().state_dict(), build(seed=1).state_dict()
    assert torch.equal(torch.get_rng_state(), state), "the global generator was used"
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["embedding.weight"], other["embedding.weight"])


def test_initial_scales(build: Build) -> None:
    model = build(d_model=64, layers=8, mixer={"heads": 4})
    state = {name: float(p.detach().std()) for name, p in model.named_parameters()}
    assert state["blocks.0.mixer.q.weight"] == pytest.approx(64**-0.5, rel=0.05)
    assert state["blocks.0.mixer.out.weight"] == pytest.approx(64**-0.5 / 4, rel=0.05)
    assert state["blocks.7.feed_forward.down.weight"] == pytest.approx(176**-0.5 / 4, rel=0.05)
    assert state["embedding.weight"] == pytest.approx(1, rel=0.05)
    small = build(d_model=64, layers=2, init_std=0.02)
    assert float(small.embedding.weight.detach().std()) == pytest.approx(0.02, rel=0.05)
    assert float(small.blocks[1].feed_forward.down.weight.detach().std()) == pytest.approx(0.01, rel=0.05)
    tied = build(d_model=64, tied=True)
    assert float(tied.embedding.weight.detach().std()) == pytest.approx(64**-0.5, rel=0.05)
    assert float(tied._embed(tokens(4, 16)).detach().std()) == pytest.approx(1, rel=0.1)
    logits = model(tokens(4, 16))
    assert 0.5 < float(logits.detach().std()) < 2


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("scale", [None, 0.1, 1.0, 40.0])
def test_vectors_enter_with_unit_variance_unless_the_head_decides(
    build: Build, tied: bool, scale: float | None
) -> None:
    model = build(d_model=64, tied=tied, embedding_scale=scale)
    std = (scale or 64**0.5) * 64**-0.5 if tied else 1.0
    assert float(model._embed(tokens(4, 16)).detach().std()) == pytest.approx(std, rel=0.1)


@pytest.mark.parametrize("scale", [None, 1.0, 1000.0])
@torch.no_grad()
def test_a_tied_model_does_not_start_by_repeating_its_input(build: Build, scale: float | None) -> None:
    """A token's own logit is like every other, however much of its vector is left at the head."""
    model, x = build(d_model=256, tied=True, embedding_scale=scale), torch.arange(VOCAB)[:, None]
    own = model(x).flatten(1).diagonal()
    assert abs(float(own.mean())) < 0.5
    assert 0.5 < float(own.std()) < 2
    assert torch.equal(model.norm.weight[0::2], -model.norm.weight[1::2])


def test_a_tied_model_of_an_older_run_starts_as_it_did(build: Build) -> None:
    """Its recipe is known by having no version; an untied model's numbers, and so its hash, never changed."""
    text = toy.TEXT.replace('[model]\nname = "toy"\nwidth = 16', '[model]\nname = "transformer"\ntied = true')
    with toy.registered():
        recipe = Recipe.from_toml(text)
        tree = recipe.to_json()
        assert tree["model"].pop("version") == 2
        assert "embedding_scale" not in tree["model"]
        assert "version" not in recipe.with_("model.tied=false").to_json()["model"]
        older = StoredRecipe.from_json(tree)
    gains = [each.model.build(context()).norm.weight for each in (recipe, older)]
    assert bool((gains[0] < 0).any())
    assert torch.equal(gains[1], torch.ones(64))


def test_roles(build: Build) -> None:
    groups = {group.role: set(group.names) for group in parameter_groups(build(mixer={"heads": 4, "qk_norm": True}))}
    assert groups["embedding"] == {"embedding.weight"}
    assert groups["head"] == {"unembedding.weight"}
    assert "blocks.1.mixer.k_norm.weight" in groups["norm"]
    assert "blocks.1.feed_forward.gate.weight" in groups["hidden"]
    tied = build(tied=True)
    assert {group.role for group in parameter_groups(tied)} == {"embedding", "norm", "hidden"}
    assert tied.head is tied.embedding.weight


@pytest.mark.parametrize("feed_forward", names("feed_forward"))
def test_the_forms_that_the_compiler_sees_equal_the_eager_ones(feed_forward: str) -> None:
    """Run without the compiler: the same numbers and gradients."""
    from transformer_toys import part

    made = part(feed_forward=feed_forward, mixer={"heads": 4, "kv_heads": 2, "qk_norm": True})
    model, plain = (made.build(context(rng=Rng(3))) for _ in range(2))
    x = tokens(2, 70)
    model(x).square().mean().backward()  # type: ignore[no-untyped-call]
    with pytest.MonkeyPatch.context() as patch:
        for module in ("kernels", "attend"):
            patch.setattr(f"isoflop.models.{module}.plain", lambda: True)
        loss = plain(x).square().mean()
        loss.backward()  # type: ignore[no-untyped-call]
    for (name, p), q in zip(model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


def test_the_fields_of_the_parts_reach_the_modules_that_they_are_about(build: Build) -> None:
    """With values that are no defaults, each another: none may be left out, or stand in another's place."""
    mixer = {"heads": 2, "kv_heads": 1, "head_dim": 6, "theta": 50.0, "qk_norm": True, "norm_eps": 0.25}
    model = build(d_model=24, layers=3, norm_eps=0.5, mixer=mixer, feed_forward={"name": "swiglu", "hidden": 40})
    found = {name: module.eps for name, module in model.named_modules() if isinstance(module, RmsNorm)}
    assert found == {name: 0.25 if "mixer." in name else 0.5 for name in found}
    assert len(found) == 3 * 4 + 1
    assert len(list(model.blocks)) == 3
    assert model.head.shape == (VOCAB, 24)
    for block in model.blocks:
        assert [block.mixer.q.weight.shape, block.mixer.k.weight.shape] == [(12, 24), (6, 24)]
        turns = torch.tensor([[place / 50 ** (pair / 3) for pair in range(3)] for place in range(5)])
        torch.testing.assert_close(block.mixer.cos[:5], turns.cos())
        torch.testing.assert_close(block.mixer.sin[:5], turns.sin())
    assert max(shape[0] for shape in (p.shape for p in model.blocks[0].feed_forward.parameters())) in (40, 80)


def test_norms_add_their_epsilon_to_the_mean_square() -> None:
    x = torch.tensor([[3.0, -1.0, 1.0, 1.0]])
    norm = RmsNorm(4, eps=6.0)
    torch.testing.assert_close(norm(x, torch.float32), x / 3)  # the mean square is 3


@pytest.mark.parametrize(("vocab_size", "gain"), [(2, 0.1733), (8, 0.5199), (54, 0.9972), (55, 1.0), (50_000, 1.0)])
def test_the_gains_of_a_tied_start_alternate_at_a_quarter_of_the_vocabularys_entropy(
    vocab_size: int, gain: float
) -> None:
    oppose(norm := RmsNorm(5, eps=1e-5), vocab_size)
    torch.testing.assert_close(norm.weight.detach(), gain * torch.tensor([1.0, -1, 1, -1, 1]), rtol=1e-3, atol=0)


def test_a_cache_that_grows_is_seldom_copied() -> None:
    """It doubles: a hundred tokens, one by one, are moved seven times, not a hundred."""
    cache = KeyValues(1, 1, 1, 2, torch.float32, torch.device("cpu"))
    places: list[int] = []
    for place in range(100):
        new = torch.full((1, 1, 1, 2), float(place))
        keys, values = cache.append(torch.cat((new, -new), 1))
        places += [keys.data_ptr()] if places[-1:] != [keys.data_ptr()] else []
        assert torch.equal(keys[0, 0, :, 0], torch.arange(place + 1.0))
        assert torch.equal(values, -keys)
    assert len(places) <= 8

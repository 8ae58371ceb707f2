"""The recurrent mixer: tiles against its definition, caches in any split, whom it sees, its price."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from isoflop.core.contracts import Documents, Treatment
from isoflop.core.errors import RecipeError, UsageError
from isoflop.core.recipe import Recipe
from isoflop.core.registry import get, names
from isoflop.core.roles import parameter_groups, shapes_of
from isoflop.ledger.audit import Audit
from isoflop.models.architectures.transformer import TransformerPart
from isoflop.models.mixers.recurrent import RecurrentPart
from isoflop.models.patterns.causal import CausalPattern
from isoflop.models.patterns.full import FullPattern
from isoflop.models.recurrence import RecurrentCache, Steps, recur, sequential, traffic
from isoflop.models.transformer import CachingTransformer
from transformer_toys import VOCAB, context

BATCH, HEADS, WIDTH, SIZE = 2, 2, 6, 3
W = {
    name: torch.randn(shape, generator=torch.Generator().manual_seed(i), dtype=torch.float64) / shape[1] ** 0.5
    for i, (name, shape) in enumerate(
        {"q": (6, 6), "k": (6, 6), "v": (6, 6), "out": (6, 6), "up": (8, 6), "down": (6, 8)}.items()
    )
}


def heads(x: Tensor) -> Tensor:
    return x.unflatten(-1, (HEADS, SIZE)).transpose(1, 2).flatten(0, 1)


def unit(x: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()


def steps(w: dict[str, Tensor]) -> Steps:
    """A block in plain operations: attention, then tanh units, both beside the stream."""

    def closes(x: Tensor, mixed: Tensor) -> Tensor:
        x = x + mixed.unflatten(0, (len(x), HEADS)).transpose(1, 2).flatten(2) @ w["out"].T
        return x + torch.tanh(x @ w["up"].T) @ w["down"].T

    return Steps(
        lambda x: (unit(heads(x @ w["q"].T)) * SIZE**-0.5, unit(heads(x @ w["k"].T)), heads(x @ w["v"].T)),
        closes,
        lambda z: (unit(heads(z @ w["k"].T)), heads(z @ w["v"].T)),
    )


def inputs(length: int, seed: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    x, above = torch.randn(2, BATCH, length, WIDTH, generator=draw, dtype=torch.float64)
    return x, above


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 40), st.integers(0, 99), st.booleans())
def test_tiles_are_the_definition_with_every_gradient(length: int, seed: int, masked: bool) -> None:
    x, above = inputs(length, seed)
    shown = torch.rand(1, length, length, generator=torch.Generator().manual_seed(seed)) > 0.3
    shown = shown | torch.eye(length, dtype=torch.bool) if masked else None
    found = []
    for tiled in (True, False):
        w, x_in = {name: each.clone().requires_grad_() for name, each in W.items()}, x.clone().requires_grad_()
        kept = RecurrentCache(BATCH, HEADS, length, SIZE, like=x)
        out = recur(x_in, steps(w), kept, shown, gradient=True) if tiled else sequential(x_in, steps(w), shown)
        found.append([out, *torch.autograd.grad(out, [x_in, *w.values()], above)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 24), st.data())
@torch.no_grad()
def test_any_split_into_steps_is_the_whole_and_what_is_cut_off_never_was(length: int, data: st.DataObject) -> None:
    x, block = inputs(length, 0)[0], steps(W)
    whole = sequential(x, block)
    kept, done = RecurrentCache(BATCH, HEADS, 1, SIZE, like=x), 0
    while done < length:
        more = data.draw(st.integers(1, length - done))
        out = recur(x[:, done : done + more], block, kept)
        torch.testing.assert_close(out, whole[:, done : done + more], rtol=0, atol=1e-12)
        done += more
        if data.draw(st.booleans()):
            recur(torch.ones(BATCH, 3, WIDTH, dtype=x.dtype), block, kept)  # a draft that is not taken
            done = data.draw(st.integers(0, done))
            kept.truncate(done)
        if data.draw(st.integers(0, 9)) == 0:
            break
    kept.truncate(done)
    kept.select(torch.tensor([1, 0, 1]))
    if done < length:
        out = recur(x[[1, 0, 1], done : done + 1], block, kept)
        torch.testing.assert_close(out, whole[[1, 0, 1], done : done + 1], rtol=0, atol=1e-12)


def test_traffic_grows_as_n_log_n_and_plainly_as_n_squared() -> None:
    sizes = [2**k for k in range(4, 15)]
    tiled, plain = [traffic(n) for n in sizes], [traffic(n, tiled=False) for n in sizes]
    assert all(n * k <= 2 * t <= 10 * n * k for k, n, t in zip(range(4, 15), sizes, tiled, strict=True))
    assert all(t == n * n + n for n, t in zip(sizes, plain, strict=True))
    moved = [RecurrentPart().between(3, n, 32).forward.moved for n in sizes]
    assert moved == [4 * 3 * 32 * t for t in tiled]


# ---------------------------------------------------------------- within a model


def part(**fields: Any) -> TransformerPart:
    return TransformerPart.model_validate({"d_model": 32, "layers": 2, "mixer": "recurrent", **fields})


def ids(batch: int, length: int) -> Tensor:
    return torch.randint(0, VOCAB, (batch, length), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def model() -> CachingTransformer:
    made = part().build(context())
    assert isinstance(made, CachingTransformer)
    return made


@torch.no_grad()
def test_what_comes_back_is_the_block_and_not_attention_alone(model: CachingTransformer) -> None:
    """A later position sees what the feed-forward did at an earlier one."""
    x, before = ids(1, 9), model(ids(1, 9))
    block = next(iter(model.blocks))
    weight = block.feed_forward.down.weight
    kept = weight.clone()
    weight.zero_()
    silent = block(torch.randn(1, 9, 32, generator=torch.Generator().manual_seed(1)))
    weight.copy_(kept)
    loud = block(torch.randn(1, 9, 32, generator=torch.Generator().manual_seed(1)))
    assert not torch.allclose(silent, loud)
    torch.testing.assert_close(model(x), before, rtol=0, atol=0)


@torch.no_grad()
def test_unequal_prompts_are_those_that_each_has_alone(model: CachingTransformer) -> None:
    x = ids(2, 11)
    padded = torch.cat((torch.ones(1, 3, dtype=torch.int64), x[1:, :-3]), 1)
    cache = model.make_cache(2, 4, pads=[0, 3])
    both = torch.cat((x[:1], padded))
    found = torch.cat([model.step(piece, cache) for piece in both.split([2, 3, 1, 5], 1)], 1)
    torch.testing.assert_close(found[0], model(x)[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(found[1, 3:], model(x)[1, :-3], rtol=0, atol=1e-5)


@torch.no_grad()
def test_documents_do_not_see_each_other(model: CachingTransformer) -> None:
    x = ids(2, 11)
    apart = Documents(torch.tensor([[0] * 4 + [1] * 7] * 2))
    torch.testing.assert_close(model(x, apart)[:, 4:], model(x[:, 4:]), rtol=0, atol=1e-5)
    torch.testing.assert_close(model(x, apart.same & torch.ones(11, 11).bool().tril()), model(x, apart), rtol=0, atol=0)
    torch.testing.assert_close(model(x, CausalPattern()), model(x), rtol=0, atol=0)


def test_higher_derivatives_go_by_the_definition(model: CachingTransformer) -> None:
    x = ids(1, 7)
    block = next(iter(model.blocks))
    start, along = torch.randn(2, 1, 7, 32, generator=torch.Generator().manual_seed(1))
    _, slope = torch.func.jvp(block, (start,), (along,))
    step = 1e-2
    with torch.no_grad():
        torch.testing.assert_close(
            slope, (block(start + step * along) - block(start - step * along)) / (2 * step), rtol=0.02, atol=0.02
        )
    assert model(x).requires_grad


FROZEN = [
    ("embedding",),
    ("embedding", "*.mixer.*"),
    ("embedding", "norm", "*.mixer.[qkv].*"),
    ("embedding", "norm", "*.mixer.*", "*.feed_forward.down.*"),
    ("embedding", "norm", "*.mixer.q.*", "blocks.0.*"),
]


def executed(chosen: TransformerPart, length: int, **changes: Any) -> tuple[int, int]:
    model = chosen.build(context(**changes))
    with Audit() as forward, torch.no_grad():
        model(ids(2, length))
    with Audit() as both:
        model(ids(2, length)).float().square().mean().backward()
    return forward.total(), both.total()


@pytest.mark.parametrize(
    ("fields", "treatment", "length"),
    [
        *(({"layers": 1}, Treatment(), length) for length in (1, 2, 13, 16)),
        *(({"layers": 1, "arrangement": name}, Treatment(), 5) for name in names("arrangement")),
        *(({"arrangement": "parallel"}, Treatment(freeze=each), 5) for each in FROZEN),
        *(({}, Treatment(freeze=each, checkpointing=True), 5) for each in FROZEN),
        ({"mixer": ["recurrent", "attention"]}, Treatment(), 5),
        *(
            pytest.param({}, Treatment(get("parametrization", name)()), 5, marks=pytest.mark.slow)  # type: ignore[arg-type]
            for name in ("lora", "dora", "mx", "nm")
        ),
        ({"norm": "none"}, Treatment(get("parametrization", "lora")(), checkpointing=True), 5),  # type: ignore[arg-type]
    ],
)
def test_its_price_is_what_is_executed(fields: dict[str, Any], treatment: Treatment, length: int) -> None:
    chosen = part(**fields).treated(treatment)
    work = chosen.work(2, length, VOCAB)
    assert executed(chosen, length) == (work.forward.executed, work.total.executed)
    assert work.total.flops <= work.total.executed
    if treatment == Treatment():
        assert work.backward.flops == 2 * work.forward.flops
        assert executed(chosen, length, precision="bf16")[1] == work.total.executed
    built = chosen.build(context())
    assert {s.name for s in shapes_of(parameter_groups(built))} == {s.name for s in chosen.trained_shapes(VOCAB)}


def test_checkpointed_blocks_have_the_same_gradient() -> None:
    found = []
    for checkpointing in (False, True):
        model = part().treated(Treatment(checkpointing=checkpointing)).build(context())
        model(ids(2, 13)).square().mean().backward()
        found.append({name: p.grad for name, p in model.named_parameters()})
    for name, gradient in found[0].items():
        assert torch.equal(gradient, found[1][name]), name


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("seen", "what"),
    [
        (FullPattern(), "the pattern full"),
        (Documents(torch.zeros(1, 5, dtype=torch.int64), FullPattern()), "the pattern full"),
        (torch.ones(5, 5, dtype=torch.bool), "a mask by which a position sees a later one"),
        (torch.ones(5, 5, dtype=torch.bool).tril(-1), "or does not see itself"),
    ],
)
def test_what_it_cannot_obey_is_refused(model: CachingTransformer, seen: Any, what: str) -> None:
    with pytest.raises(UsageError, match=f"cannot obey .*{what}"):
        model(ids(1, 5), seen)


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (
            ["model.mixer=recurrent", "objective=masked"],
            r"recurrent cannot obey the pattern full .*; use another mixer",
        ),
        (["model.mixer={name='recurrent', heads=5}"], r"model\.mixer\.heads: 5 do not divide the width 64"),
        (
            ["model.mixer={name='recurrent', head_dim=4096}"],
            r"model\.mixer\.head_dim: is 4096, more than .* 2048 at most",
        ),
        (["model.mixer={name='recurrent', kv_heads=2}"], r"model\.mixer\.kv_heads: no such key"),
    ],
)
def test_recipes_that_it_cannot_serve_are_refused(overrides: list[str], problem: str) -> None:
    with pytest.raises(RecipeError, match=problem):
        Recipe.load("small", "model.mixer=recurrent", *overrides)

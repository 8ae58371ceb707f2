"""What every part of the slots model, mixer and feed_forward must do."""

from __future__ import annotations

import itertools
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

import toy
from isoflop.core.contracts import Cacheable, FeedForwardPart, MixerPart, Model, ModelPart
from isoflop.core.errors import RecipeError, UsageError
from isoflop.core.recipe import Recipe
from isoflop.core.registry import get, names
from isoflop.core.rng import Rng
from isoflop.core.roles import Shape, parameter_groups, shapes_of
from isoflop.ledger.audit import Audit
from isoflop.models.pricing import layer_work
from isoflop.models.slots import Piece
from transformer_toys import VOCAB, context

MODELS: dict[str, dict[str, Any]] = {"transformer": {"d_model": 32}, "shared_convolution": {"d_model": 32}}
"""Fields with which each architecture is small (d_model, if it has one, divisible by 4)."""
PAST_ALONE = {"shared_convolution"}
"""Architectures that cannot see what follows, and refuse a mask that shows it."""
WIDTH, BATCH, LENGTH = 32, 2, 21
MIXERS, FEED_FORWARDS = names("mixer"), names("feed_forward")


def part_of(slot: str, name: str, **fields: Any) -> Any:
    return get(slot, name)(**fields)


def model_part(name: str, **fields: Any) -> ModelPart:
    return part_of("model", name, **{**MODELS.get(name, {}), **fields})  # type: ignore[no-any-return]


def by_name(shapes: list[Shape]) -> list[Shape]:
    return sorted(shapes, key=lambda shape: shape.name)


def tokens(batch: int = BATCH, length: int = LENGTH) -> Tensor:
    return torch.randint(0, VOCAB, (batch, length), generator=torch.Generator().manual_seed(0))


# ---------------------------------------------------------------- model


@pytest.mark.parametrize("name", names("model"))
def test_model_meets_its_protocol(name: str) -> None:
    part = model_part(name)
    assert part.card.summary
    model = part.build(context())
    assert isinstance(model, nn.Module)
    assert isinstance(model, Model)
    assert isinstance(model, Cacheable) == (Cacheable in part.abilities)
    logits, hidden = model(tokens()), model.hidden(tokens())
    assert logits.shape == (BATCH, LENGTH, VOCAB)
    assert model.head.shape == (VOCAB, hidden.shape[-1])
    torch.testing.assert_close(logits, hidden @ model.head.T, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", names("model"))
def test_weights_are_fp32_and_every_one_has_a_role_and_a_gradient(name: str, precision: str) -> None:
    model = model_part(name).build(context(precision=precision))
    model(tokens()).float().square().mean().backward()
    assert sum(len(group.names) for group in parameter_groups(model)) == len(list(model.parameters()))
    for parameter_name, p in model.named_parameters():
        assert p.dtype == torch.float32
        assert p.grad is not None, parameter_name
        assert p.grad.abs().max() > 0, parameter_name


@pytest.mark.parametrize("name", names("model"))
def test_shapes_and_work_are_known_without_building(name: str) -> None:
    part = model_part(name)
    model = part.build(context())
    assert by_name(shapes_of(parameter_groups(model))) == by_name(part.shapes(VOCAB))
    work = part.work(BATCH, LENGTH, VOCAB)
    assert model.flops(BATCH, LENGTH) == work
    with Audit() as audit:
        model(tokens()).square().mean().backward()
    assert audit.total() == work.total.executed


@pytest.mark.parametrize("name", names("model"))
def test_initialisation_is_the_seeds(name: str) -> None:
    before = torch.get_rng_state()
    first, again, other = (model_part(name).build(context(rng=Rng(seed))).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before), "the global generator was used"
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("name", names("model"))
def test_model_is_causal_without_a_mask_and_obeys_one(name: str) -> None:
    model, x = model_part(name).build(context()), tokens()
    changed = x.clone()
    changed[:, -1] = (x[:, -1] + 1) % VOCAB
    torch.testing.assert_close(model(x)[:, :-1], model(changed)[:, :-1])
    causal = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()
    torch.testing.assert_close(model(x, causal), model(x), rtol=0, atol=1e-5)
    if name in PAST_ALONE:
        with pytest.raises(UsageError, match=f"{name} .* cannot obey a mask"):
            model(x, torch.ones_like(causal))
    else:
        assert not torch.allclose(model(x, torch.ones_like(causal)), model(x), atol=1e-3)


@pytest.mark.parametrize("name", [n for n in names("model") if Cacheable in model_part(n).abilities])
@torch.no_grad()
def test_cached_steps_equal_one_forward(name: str) -> None:
    model, x = model_part(name).build(context()), tokens()
    cache = model.make_cache(BATCH, LENGTH)
    pieces = [model.step(piece, cache) for piece in x.split([6, 1, 4, *[1] * (LENGTH - 11)], 1)]
    torch.testing.assert_close(torch.cat(pieces, 1), model(x), rtol=0, atol=1e-5)
    cache.truncate(6)
    torch.testing.assert_close(model.step(x[:, 6:7], cache), pieces[1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", names("model"))
def test_state_survives_a_round_trip(name: str) -> None:
    source, target = (model_part(name).build(context(rng=Rng(seed))) for seed in (1, 2))
    target.load_state_dict(source.state_dict())
    assert torch.equal(target(tokens()), source(tokens()))


# ---------------------------------------------------------------- the start

SIZES = [(64, 2), (64, 16), (64, 257), (64, 8192), (192, 257), (512, 1024)]
WIDE = [pytest.param(*size, marks=pytest.mark.slow) for size in ((1024, 16), (1024, 8192))]
"""Width and vocabulary."""


def starts() -> list[tuple[str, dict[str, Any]]]:
    """Every architecture with each choice of its layers, tied or not, and with every norm; all else by default."""
    found: list[tuple[str, dict[str, Any]]] = []
    for name in names("model"):
        known = get("model", name).model_fields
        ties = [{"tied": tied} for tied in (False, True)] if "tied" in known else [{}]
        layers = {"mixer": MIXERS, "feed_forward": FEED_FORWARDS}
        chosen = [{key: each} for key, choices in layers.items() if key in known for each in choices]
        found += [(name, {**one, **tie}) for one, tie in itertools.product(chosen or [{}], ties)]
        if "norm" in known:
            others = [norm for norm in names("norm") if norm != known["norm"].default]
            kept = [norm for norm in others if norm != "none"]  # which keeps no scale
            found += [(name, {"norm": norm, "tied": tied}) for norm in kept for tied in (False, True)]
        if "arrangement" in known:
            others = [each for each in names("arrangement") if each != known["arrangement"].default]
            found += [(name, {"arrangement": each, "tied": tied}) for each in others for tied in (False, True)]
    return found


DEEP = [each for each in starts() if "layers" in get("model", each[0]).model_fields]


@torch.no_grad()
def above_uniform(name: str, fields: dict[str, Any], vocab: int) -> list[float]:
    """First loss less ln(vocab), in nats: on ids that are equally frequent, and on ids that follow Zipf's law."""
    draw, found = np.random.default_rng(vocab), []
    model = model_part(name, **fields).build(context(vocab_size=vocab))
    for exponent in (0.0, 1.0):
        frequency = 1 / np.arange(1, vocab + 1) ** exponent
        x = torch.from_numpy(draw.choice(vocab, (16, 17), p=frequency / frequency.sum()))
        loss = F.cross_entropy(model(x[:, :-1]).flatten(0, 1), x[:, 1:].flatten())
        found.append(float(loss) - math.log(vocab))
    return found


@pytest.mark.parametrize(("width", "vocab"), SIZES + WIDE)
@pytest.mark.parametrize(("name", "fields"), starts())
def test_the_first_loss_is_near_that_of_a_uniform_guess(
    name: str, fields: dict[str, Any], width: int, vocab: int
) -> None:
    assert np.abs(above_uniform(name, {**fields, "d_model": width}, vocab)).max() < 0.7


@pytest.mark.parametrize("layers", [1, 12])
@pytest.mark.parametrize(("name", "fields"), DEEP)
def test_the_first_loss_is_near_that_of_a_uniform_guess_at_any_depth(
    name: str, fields: dict[str, Any], layers: int
) -> None:
    assert np.abs(above_uniform(name, {**fields, "d_model": 128, "layers": layers}, 257)).max() < 0.7


# ---------------------------------------------------------------- mixer and feed-forward


@pytest.mark.parametrize(
    ("slot", "name"), [("mixer", n) for n in MIXERS] + [("feed_forward", n) for n in FEED_FORWARDS]
)
def test_inner_part_keeps_the_shape_and_knows_its_work(slot: str, name: str) -> None:
    part = part_of(slot, name)
    assert isinstance(part, MixerPart | FeedForwardPart)
    assert part.card.summary
    module = part.build(WIDTH, context())
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn(p.shape, generator=draw) / WIDTH**0.5)
    assert by_name(shapes_of(parameter_groups(module))) == by_name(part.shapes(WIDTH))
    x = torch.randn(BATCH, LENGTH, WIDTH, generator=draw, requires_grad=True)
    with Audit() as audit:
        out = module(x, module.products(torch.float32))
        out.square().mean().backward()
    assert out.shape == x.shape
    assert audit.total() == layer_work(part, BATCH, LENGTH, WIDTH).total.executed
    assert module(x.bfloat16(), module.products(torch.bfloat16)).dtype == torch.bfloat16


def layers() -> list[Any]:
    """Every mixer with every feed-forward, each with one norm in turn; and, slowly, with every norm."""
    pairs, norms = list(itertools.product(MIXERS, FEED_FORWARDS)), names("norm")
    turns = {(*pair, norms[i % len(norms)]) for i, pair in enumerate(pairs)}
    return [
        pytest.param(*each, marks=[] if each in turns else pytest.mark.slow)
        for each in itertools.product(MIXERS, FEED_FORWARDS, norms)
    ]


@pytest.mark.parametrize(("mixer", "feed_forward", "norm"), layers())
def test_every_mixer_goes_with_every_feed_forward_and_norm(mixer: str, feed_forward: str, norm: str) -> None:
    part = model_part("transformer", mixer=mixer, feed_forward=feed_forward, norm=norm)
    model, x = part.build(context()), tokens(length=9)
    with Audit() as audit:
        model(x).square().mean().backward()
    assert audit.total() == part.work(BATCH, 9, VOCAB).total.executed
    if isinstance(model, Cacheable):
        cache = model.make_cache(BATCH, 2)
        with torch.no_grad():
            steps = torch.cat([model.step(piece, cache) for piece in x.split([4, 1, 4], 1)], 1)
            torch.testing.assert_close(steps, model(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("mixer", MIXERS)
@torch.no_grad()
def test_sequences_that_go_on_together_are_as_each_alone(mixer: str) -> None:
    model: Any = model_part("transformer", mixer=mixer).build(context())
    ready = model.prepared(3)
    if not hasattr(model.blocks[0].mixer, "make_slots"):
        with pytest.raises(UsageError, match="give each sequence a cache of its own"):
            ready.make_slots()
        return
    slots, texts = ready.make_slots(), tokens(3, 9)
    slots.reserve(3, 9)
    held: list[list[Tensor]] = [[] for _ in texts if slots.join() >= 0]
    for counts in ((4, 1, 2), (1, 1, 1), (0, 1, 4), (2, 1, 1), (2, 0, 1)):
        pieces = [(row, n) for row, n in enumerate(counts) if n]
        at = [len(each) for each in held]
        found = slots.step([Piece(row, texts[row, at[row] : at[row] + n].tolist(), n) for row, n in pieces])
        for (row, _), logits in zip(pieces, found, strict=True):
            held[row].extend(logits)
    for text, each in zip(texts, held, strict=True):
        whole = model(text[None, : len(each)])[0]
        torch.testing.assert_close(torch.stack(each), whole, rtol=0, atol=1e-5)


READER = """
import json, sys, torch
from isoflop.core.registry import get
from safetensors.torch import load_file
from transformer_toys import context
for place, (name, fields) in enumerate(json.loads(sys.argv[2])):
    model = get("model", name)(**fields).build(context())
    model.load_state_dict(load_file(f"{sys.argv[1]}/{place}.safetensors"))
    print(place, model(torch.arange(22).reshape(2, 11)).detach().numpy().tobytes().hex())
"""
KEPT = [(name, MODELS[name]) for name in names("model")] + [
    ("transformer", {**MODELS["transformer"], "mixer": mixer}) for mixer in MIXERS
]
"""Every architecture, and the Transformer with every mixer."""


def test_a_fresh_process_has_the_same_logits_to_the_bit(tmp_path: Path) -> None:
    found = []
    for place, (name, fields) in enumerate(KEPT):
        model = model_part(name, **fields).build(context(rng=Rng(7)))
        save_file(model.state_dict(), tmp_path / f"{place}.safetensors")
        found.append(f"{place} {model(torch.arange(22).reshape(2, 11)).detach().numpy().tobytes().hex()}")
    paths = os.pathsep.join([str(Path(toy.__file__).parent), *sys.path])
    command = [sys.executable, "-c", READER, str(tmp_path), json.dumps(KEPT)]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:-1] == found


# ---------------------------------------------------------------- refusals


def recipe(**model: Any) -> Recipe:
    with toy.registered():
        overrides = [f"model.{key}={value}" for key, value in model.items()]
        return Recipe.from_toml(toy.TEXT, "model=transformer", *overrides)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"d_model": 30}, r"model\.mixer\.heads: 4 do not divide the width 30; choose a divisor or give head_dim"),
        ({"d_model": 12}, r"model\.mixer\.head_dim: is 3, but rotary positions need an even one"),
        (
            {"mixer": '{name = "attention", heads = 4, kv_heads = 3}'},
            r"model\.mixer\.kv_heads: 3 do not divide heads = 4; choose a divisor",
        ),
        (
            {"d_model": 2**20, "layers": 4096},
            r"model: its \d+ parameters take \d+ bytes in training, but this machine",
        ),
        ({"layers": 0}, r"model\.layers: .*at least 1"),
        ({"depth": 3}, r"model\.depth: no such key; legal: arrangement, cap, d_model, embedding_scale, feed_forward"),
    ],
)
def test_what_cannot_be_built_is_refused_before_anything_is_allocated(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(RecipeError, match=problem):
        recipe(**fields)


def test_a_legal_recipe_is_accepted() -> None:
    made = recipe(d_model=48, mixer='{name = "attention", heads = 6, kv_heads = 2}', feed_forward="gelu")
    assert made.model.work(1, 2, 3).total.flops > 0

"""Gated DeltaNet's mixer: its definition, documents, caches of fixed size, exact work, refusals."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from isoflop.core.contracts import Documents
from isoflop.core.contracts.parametrization import Treatment
from isoflop.core.errors import RecipeError, UsageError
from isoflop.core.recipe import Recipe
from isoflop.core.registry import get
from isoflop.decode.batching import side_by_side
from isoflop.ledger.audit import Audit
from isoflop.models.architectures.transformer import TransformerPart
from isoflop.models.delta_rule import reference
from isoflop.models.delta_state import KEPT
from isoflop.models.mixers.gated_delta import GatedDeltaPart
from isoflop.models.patterns.causal import CausalPattern
from isoflop.models.patterns.full import FullPattern
from isoflop.models.patterns.window import WindowPattern
from transformer_toys import VOCAB, context

MIXER = {"name": "gated_delta", "heads": 2, "value_dim": 6}


def part(mixer: Any = MIXER, **fields: Any) -> TransformerPart:
    return TransformerPart.model_validate({"d_model": 16, "layers": 2, "mixer": mixer, **fields})


@functools.cache
def model(**fields: Any) -> Any:
    """One that no test changes."""
    return part().build(context(**fields))


def tokens(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, VOCAB, shape, generator=torch.Generator().manual_seed(seed))


def test_it_is_what_its_card_says() -> None:
    layer = GatedDeltaPart(heads=2, value_dim=6, taps=3).build(8, context()).double()
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(torch.randn(p.shape, generator=draw) / 2)
    x = torch.randn(3, 70, 8, generator=draw, dtype=torch.float64)
    padded = F.pad(torch.cat([x @ m.weight.T for m in (layer.q, layer.k, layer.v)], -1), (0, 0, 2, 0))
    taps = layer.short.weight.T
    q, k, v = F.silu(sum(taps[s] * padded[:, s : s + 70] for s in range(3))).split([8, 8, 12], -1)
    beta, rate = (x @ layer.beta.weight.T).sigmoid(), layer.fade.rate.exp()
    decay = -rate * F.softplus(x @ layer.decay.weight.T + layer.fade.shift)
    heads = []
    for head in range(2):
        of = [each[..., 4 * head : 4 * head + 4] for each in (q, k)]
        of = [each / (each.square().sum(-1, keepdim=True) + 1e-6).sqrt() for each in of]
        found, _ = reference(*of, v[..., 6 * head : 6 * head + 6], beta[..., head], decay[..., head])
        heads.append(F.rms_norm(found, (6,), layer.norm.weight, 1e-5))
    wanted = (torch.cat(heads, -1) * F.silu(x @ layer.gate.weight.T)) @ layer.out.weight.T
    torch.testing.assert_close(layer(x, layer.products(torch.float64)), wanted, rtol=0, atol=1e-10)


@torch.no_grad()
def test_documents_in_one_row_are_apart() -> None:
    sizes, x = [3, 1, 40, 2, 60], tokens(2, 106)
    ids = torch.arange(5).repeat_interleave(torch.tensor(sizes)).expand(2, -1)
    apart = torch.cat([model()(piece) for piece in x.split(sizes, 1)], 1)
    for seen in (Documents(ids), Documents(ids, CausalPattern()), Documents(ids).same.tril()):
        torch.testing.assert_close(model()(x, seen), apart, rtol=0, atol=1e-6 * float(apart.abs().max()))
    assert torch.equal(model()(x, CausalPattern()), model()(x))


@settings(max_examples=5, deadline=None)
@given(pieces=st.lists(st.sampled_from([1, 2, 7, 63, 64, 65, 130]), min_size=1, max_size=3), data=st.data())
@torch.no_grad()
def test_prefill_and_steps_in_any_split_equal_one_forward(pieces: list[int], data: st.DataObject) -> None:
    length = sum(pieces)
    x, cache = tokens(2, length), model().make_cache(2, 3)
    whole = model()(x)
    found = torch.cat([model().step(piece, cache) for piece in x.split(pieces, 1)], 1)
    torch.testing.assert_close(found, whole, rtol=0, atol=1e-5)
    for _ in range(2):  # twice, since marks may have gone the first time
        kept = data.draw(st.integers(max(0, length - KEPT), length - 1))
        cache.truncate(kept)
        assert cache.length == kept
        rest = torch.cat([model().step(piece, cache) for piece in x[:, kept:].split(11, 1)], 1)
        torch.testing.assert_close(rest, whole[:, kept:], rtol=0, atol=1e-5)
    cache.select([1, 0, 1])
    cache.truncate(0)
    torch.testing.assert_close(model().step(x[[1, 0, 1]], cache), whole[[1, 0, 1]], rtol=0, atol=1e-5)


@torch.no_grad()
def test_its_state_does_not_grow_and_tells_how_far_back_it_can_go() -> None:
    cache = model().make_cache(1, 1)
    state = cache.layers[0]
    sizes = set()
    for count in (1, KEPT - 2, 1, 1, KEPT - 1, 1, *[KEPT // 2] * 6):
        model().step(tokens(1, count), cache)
        sizes.add((state.memory.numel(), state._inputs.numel()))
        assert len(state._marks) <= 2
    assert len(sizes) == 1
    with pytest.raises(UsageError, match=rf"no way back to the first 9 of 321 tokens.*take back {KEPT} tokens at most"):
        cache.truncate(9)
    cache.truncate(4 * KEPT)


@torch.no_grad()
def test_no_layer_is_cut_where_one_refuses_to_go_back() -> None:
    mixed = part([{"name": "attention", "heads": 2}, MIXER]).build(context())
    x, cache = tokens(1, 200), mixed.make_cache(1, 1)
    mixed.step(x[:, :180], cache)
    with pytest.raises(UsageError, match="no way back to the first 9 of 180 tokens"):
        cache.truncate(9)
    torch.testing.assert_close(mixed.step(x[:, 180:], cache), mixed(x)[:, 180:], rtol=0, atol=1e-5)


@torch.no_grad()
def test_prompts_of_unequal_lengths_stand_side_by_side() -> None:
    texts = [tokens(n, seed=n).tolist() for n in (1, 70, 4)]
    cache, logits = side_by_side(model(), texts, 20, model().head.device)
    for _ in range(5):
        for row, text in enumerate(texts):
            torch.testing.assert_close(logits[row], model()(torch.tensor([text]))[0, -1], rtol=0, atol=1e-5)
            text.append(int(logits[row].argmax()))
        logits = model().step(torch.tensor([text[-1:] for text in texts]), cache)[:, -1]


@pytest.mark.parametrize(
    "freeze", [(), ("embedding",), ("hidden", "embedding", "norm"), ("hidden", "embedding", "norm", "convolution")]
)
@pytest.mark.parametrize(("length", "apart"), [(1, False), (70, True)])
def test_it_is_charged_as_it_is_executed(freeze: tuple[str, ...], length: int, apart: bool) -> None:
    chosen, x = part().treated(Treatment(freeze=freeze)), tokens(2, length)
    seen = Documents(torch.arange(length).expand(2, -1) // 20) if apart else None
    with Audit() as audit:
        chosen.build(context())(x, seen).square().mean().backward()
    assert audit.total() == chosen.work(2, length, VOCAB).total.executed


def test_a_step_costs_the_same_at_any_position() -> None:
    flops = [part().work(1, n, VOCAB).forward.flops for n in (1, 2, 100, 101, 5000, 5001)]
    assert flops[1] - flops[0] == flops[3] - flops[2] == flops[5] - flops[4]


def test_bf16_keeps_its_memories_in_fp32() -> None:
    rounded = model(precision="bf16")
    x = tokens(2, 80)
    torch.testing.assert_close(rounded(x).float(), model()(x), rtol=0, atol=0.1)
    with torch.no_grad():
        cache = rounded.make_cache(2, 8)
        steps = torch.cat([rounded.step(piece, cache) for piece in x.split([70, *[1] * 10], 1)], 1)
    assert cache.layers[0].memory.dtype == torch.float32
    torch.testing.assert_close(steps.float(), model()(x), rtol=0, atol=0.1)


# ---------------------------------------------------------------- as a recipe

SMALL = (
    "model.d_model=16", "model.layers=2", 'source={name="hmm", text_bytes=20000, heldout_bytes=1000}',
    "tokenizer=bytes", "train={length=16, batch=2, evaluations=1, checkpoints=2}", "budget={steps=4}",
)  # fmt: skip


def test_a_recipe_may_keep_documents_apart() -> None:
    assert Recipe.load("small", "model.mixer=gated_delta", *SMALL, "train.isolate_documents=true")


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (("model.mixer=gated_delta", "model.mixer.heads=5"), r"model\.mixer\.heads: 5 do not divide the width 16"),
        (
            ("model.mixer=gated_delta", "objective=masked"),
            r"model\.mixer: gated_delta cannot obey the pattern full .*use another mixer",
        ),
    ],
)
def test_recipes_that_ask_too_much_are_refused(overrides: tuple[str, ...], problem: str) -> None:
    with pytest.raises(RecipeError, match=problem):
        Recipe.load("small", *SMALL, *overrides)


@pytest.mark.parametrize(
    ("seen", "named"),
    [
        (FullPattern(), "the pattern full"),
        (Documents(torch.zeros(1, 5, dtype=torch.int64), WindowPattern(size=3)), "the pattern window"),
        (torch.ones(5, 5, dtype=torch.bool), "a mask other than that of texts side by side"),
        (torch.ones(5, 5, dtype=torch.bool).tril().triu(-1), "a mask other than that of texts side by side"),
    ],
)
def test_masks_are_refused(seen: Any, named: str) -> None:
    with pytest.raises(UsageError, match=f"cannot obey {named};.*use the causal pattern, or the mixer attention"):
        model()(tokens(1, 5), seen)


def test_patterns_are_told_before_anything_runs() -> None:
    patterns = None, CausalPattern(), FullPattern()
    assert [GatedDeltaPart().takes(pattern) for pattern in patterns] == [True, True, False]
    assert get("mixer", "gated_delta") is GatedDeltaPart

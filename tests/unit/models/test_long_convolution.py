"""The long convolution as a mixer: cached = uncached in any pieces, any filter; exact work; refusals."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from isoflop.core.contracts import Documents
from isoflop.core.contracts.parametrization import Treatment
from isoflop.core.errors import RecipeError, UsageError
from isoflop.core.recipe import Recipe
from isoflop.core.registry import get
from isoflop.core.rng import Rng
from isoflop.decode.batching import side_by_side
from isoflop.decode.decoders.sample import Sample
from isoflop.ledger.audit import Audit
from isoflop.models.architectures.transformer import TransformerPart
from isoflop.models.convolution import reference_causal_convolution
from isoflop.models.mixers.long_convolution import LongConvolutionPart
from isoflop.models.online_convolution import Kernel
from isoflop.store.run import Run
from isoflop.train.run import train
from transformer_toys import VOCAB, context

FORMS: dict[str, dict[str, Any]] = {
    "implicit": {"length": 40},
    "free": {"filter": "free", "length": 200},
    "one tap": {"taps": 1, "hidden": 8, "waves": 2},
}
MIXERS: dict[str, Any] = {
    **{form: {"name": "long_convolution", **fields} for form, fields in FORMS.items()},
    "beside attention": [{"name": "long_convolution"}, "attention"],
}


def architecture(form: str, **fields: Any) -> TransformerPart:
    return TransformerPart.model_validate({"d_model": 16, "layers": 3, "mixer": MIXERS[form], **fields})


@functools.cache
def shared_model(form: str) -> Any:
    """One that no test changes."""
    return architecture(form).build(context())


def tokens(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, VOCAB, shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that short texts have tiles."""
    monkeypatch.setattr("isoflop.models.online_convolution.block_of", lambda taps: 4)


@pytest.mark.parametrize("form", FORMS)
def test_it_is_what_its_card_says(form: str) -> None:
    part, x = LongConvolutionPart(**FORMS[form]), torch.randn(2, 30, 16, generator=torch.Generator().manual_seed(0))
    layer = part.build(16, context())
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())) / 4)
        taps, short = layer.filter.taps()(30), layer.short.weight
        q, k, v = (
            reference_causal_convolution((x @ w.weight.T).transpose(1, 2), own.flip(1))
            for w, own in zip((layer.q, layer.k, layer.v), short.chunk(3), strict=True)
        )
        wanted = (q * reference_causal_convolution(k * v, taps.T)).transpose(1, 2) @ layer.out.weight.T
        torch.testing.assert_close(layer(x, layer.products(torch.float32)), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("length", [1, 37])
@pytest.mark.parametrize("form", MIXERS)
def test_shapes_and_work_are_exact(form: str, length: int) -> None:
    part, model, x = architecture(form), shared_model(form), tokens(2, length)
    with Audit() as audit:
        model(x).square().mean().backward()
    assert audit.total() == part.work(2, length, VOCAB).total.executed


@pytest.mark.parametrize("frozen", [("convolution",), ("hidden",), ("blocks.0.*", "embedding")])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("form", ["implicit", "free"])
def test_frozen_weights_cost_what_is_executed(form: str, frozen: tuple[str, ...], checkpointing: bool) -> None:
    part = architecture(form).treated(Treatment(None, frozen, checkpointing=checkpointing))
    model = part.build(context())
    with Audit() as audit:
        model(tokens(2, 19)).square().mean().backward()
    assert audit.total() == part.work(2, 19, VOCAB).total.executed


@settings(max_examples=8, deadline=None)
@given(pieces=st.lists(st.integers(1, 30), min_size=1, max_size=5), data=st.data())
@pytest.mark.parametrize("form", MIXERS)
@torch.no_grad()
def test_prefill_and_steps_in_any_split_equal_one_forward(form: str, pieces: list[int], data: st.DataObject) -> None:
    model, x = shared_model(form), tokens(2, sum(pieces))
    cache = model.make_cache(2, data.draw(st.integers(1, 100)))
    whole = model(x)
    found = torch.cat([model.step(piece, cache) for piece in torch.split(x, pieces, 1)], 1)
    torch.testing.assert_close(found, whole, rtol=0, atol=1e-5)
    kept = data.draw(st.integers(0, sum(pieces) - 1))
    cache.truncate(kept)
    assert cache.length == kept
    cache.select([1, 0, 1])
    rest = torch.cat([model.step(piece, cache) for piece in torch.split(x[[1, 0, 1], kept:], 1, 1)], 1)
    torch.testing.assert_close(rest, whole[[1, 0, 1], kept:], rtol=0, atol=1e-5)


@pytest.mark.parametrize("form", MIXERS)
@torch.no_grad()
def test_prompts_of_unequal_lengths_stand_side_by_side(form: str) -> None:
    model = shared_model(form)
    texts = [tokens(n, seed=n).tolist() for n in (1, 9, 4)]
    cache, logits = side_by_side(model, texts, 20, model.head.device)
    for _ in range(15):
        for row, text in enumerate(texts):
            torch.testing.assert_close(logits[row], model(torch.tensor([text]))[0, -1], rtol=0, atol=1e-5)
            text.append(int(logits[row].argmax()))
        logits = model.step(torch.tensor([text[-1:] for text in texts]), cache)[:, -1]


@torch.no_grad()
def test_what_is_prepared_keeps_its_filters() -> None:
    model: Any = architecture("free").build(context())
    x = tokens(1, 12)
    before, ready = model(x), model.prepared(1)
    for layer in model.blocks:
        layer.mixer.filter.free.weight.zero_()
    torch.testing.assert_close(ready.step(x, ready.make_cache(1, 12)), before, rtol=0, atol=1e-5)


@torch.no_grad()
def test_caches_of_one_preparation_share_the_filters_transforms(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Kernel] = []
    original = Kernel.__init__

    def counted(self: Kernel, *args: Any, **kwargs: Any) -> None:
        made.append(self)
        original(self, *args, **kwargs)

    monkeypatch.setattr(Kernel, "__init__", counted)
    ready = shared_model("implicit").prepared(2)
    for _ in range(3):
        ready.step(tokens(2, 9), ready.make_cache(2, 20))
    assert len(made) == 3  # one a layer


def test_bf16_keeps_its_convolution_in_fp32() -> None:
    model: Any = architecture("implicit").build(context(precision="bf16"))
    whole = shared_model("implicit")(tokens(2, 30))
    torch.testing.assert_close(model(tokens(2, 30)).float(), whole, rtol=0, atol=0.1)
    with torch.no_grad():
        cache = model.make_cache(2, 30)
        steps = torch.cat([model.step(piece, cache) for piece in torch.split(tokens(2, 30), 1, 1)], 1)
    torch.testing.assert_close(steps.float(), whole, rtol=0, atol=0.1)


# ---------------------------------------------------------------- as a recipe

SMALL = (
    "model.d_model=16", "model.layers=2", 'source={name="hmm", text_bytes=20000, heldout_bytes=1000}',
    "tokenizer=bytes", "train={length=16, batch=2, evaluations=1, checkpoints=2}", "budget={steps=4}",
)  # fmt: skip


def test_it_trains_under_audit_and_writes(tmp_path: Path) -> None:
    run = train(Recipe.load("small", "model.mixer=long_convolution", *SMALL), tmp_path, audit=True)
    assert run.result["status"] == "done"
    assert Run.read(run.path).recipe.model.mixer.name == "long_convolution"  # type: ignore[attr-defined]


def test_a_decoder_writes_with_it() -> None:
    model = shared_model("free")
    greedy = Sample(temperature=0).generate(model, [[1, 2, 3], [4]], 20, Rng(0))
    x = [1, 2, 3]
    for token in greedy[0]:
        assert int(model(torch.tensor([x]))[0, -1].argmax()) == token
        x.append(token)


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (
            ('model.mixer={name="long_convolution", filter="free", length=8}',),
            r"model\.mixer\.length: 8 positions are fewer than train\.length = 16; use more",
        ),
        (
            ("model.mixer=long_convolution", "train.isolate_documents=true"),
            r"model\.mixer: long_convolution cannot keep the documents of one row apart",
        ),
        (
            ("model.mixer=long_convolution", "objective=masked"),
            r"model\.mixer: long_convolution cannot obey the pattern full",
        ),
        (('model.mixer={name="long_convolution", length=1}',), r"model\.mixer\.length: is 1"),
        (('model.mixer={name="long_convolution", filter="fre"}',), r"model\.mixer\.filter: .*'implicit' or 'free'"),
    ],
)
def test_recipes_that_ask_too_much_are_refused(overrides: tuple[str, ...], problem: str) -> None:
    with pytest.raises(RecipeError, match=problem):
        Recipe.load("small", *SMALL, *overrides)


@torch.no_grad()
def test_positions_beyond_a_free_filter_are_refused() -> None:
    model: Any = architecture("free", mixer={"name": "long_convolution", "filter": "free", "length": 8}).build(
        context()
    )
    with pytest.raises(UsageError, match="9 tokens are more than the 8 that the free filter reaches"):
        model(tokens(1, 9))
    cache = model.make_cache(1, 4)
    model.step(tokens(1, 8), cache)
    with pytest.raises(UsageError, match="position 9 lies beyond the 8 taps of the filter"):
        model.step(tokens(1, 1), cache)


@pytest.mark.parametrize(
    ("seen", "named"),
    [
        (get("pattern", "full")(), "cannot obey full"),
        (torch.ones(5, 5, dtype=torch.bool), "cannot obey a mask"),
        (Documents(torch.zeros(1, 5, dtype=torch.int64)), "cannot obey documents of one row"),
    ],
)
def test_masks_are_refused(seen: Any, named: str) -> None:
    model = shared_model("implicit")
    with pytest.raises(UsageError, match=named):
        model(tokens(1, 5), seen)
    torch.testing.assert_close(model(tokens(1, 5), get("pattern", "causal")()), model(tokens(1, 5)))

"""Shapes of about so many parameters, and the products of a training step that are timed for each."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isoflop.core.errors import UsageError
from isoflop.core.registry import names
from isoflop.core.roles import numel
from isoflop.models import product_rates
from isoflop.models.architectures.transformer import TransformerPart
from isoflop.models.product_rates import TimedShape, efficient, products, time_shapes
from isoflop.models.sizing import LIMITS, NEAR, shapes_near

BATCH, LENGTH, VOCAB = 2, 16, 300


def part(**fields: Any) -> TransformerPart:
    return TransformerPart.model_validate({"d_model": 32, "layers": 3, **fields})


@settings(max_examples=8, deadline=None)
@given(size=st.floats(1e6, 1e8), vocab=st.sampled_from([257, 1024, 32768]), most=st.integers(1, 8))
def test_shapes_are_near_apart_and_from_deep_to_wide(size: float, vocab: int, most: int) -> None:
    try:
        found = shapes_near(TransformerPart(), size, vocab, most)
    except UsageError:
        assert size < 2.2 * vocab * 64, "only an embedding that takes nearly all leaves no shape"
        return
    assert 1 <= len(found) <= most
    assert [shape.d_model for shape in found] == sorted({shape.d_model for shape in found})
    assert [shape.layers for shape in found] == sorted((shape.layers for shape in found), reverse=True)
    for shape in found:
        assert abs(numel(shape.shapes(vocab)) / size - 1) <= NEAR[-1]
        assert LIMITS[0] <= shape.d_model / shape.layers <= LIMITS[1]


def test_experts_share_the_width_that_a_token_uses() -> None:
    experts = {"name": "experts", "experts": 8, "chosen": 2, "hidden": 1}
    for shape in shapes_near(part(feed_forward=experts), 3e6, 1024):
        inner = shape.feed_forward
        assert 2 * inner.hidden == pytest.approx(8 / 3 * shape.d_model, rel=0.2)  # type: ignore[union-attr]


@pytest.mark.parametrize("mixer", [name for name in names("mixer") if name not in ("long_convolution", "recurrent")])
@pytest.mark.parametrize("feed_forward", ["swiglu", "gelu", {"name": "experts", "experts": 4, "chosen": 2}])
def test_products_are_all_that_the_ledger_charges_for_weights(mixer: str, feed_forward: Any) -> None:
    """Two FLOPs for each number of every matrix and each vector that it is applied to."""
    made = part(mixer=mixer, feed_forward=feed_forward)
    found = sum(2 * n * i * o * count for (n, i, o), count in products(made, VOCAB, BATCH, LENGTH).items())
    tokens, active = BATCH * LENGTH, 0.0
    for shape in made.shapes(VOCAB):
        if shape.role in ("hidden", "head") and len(shape.shape) == 2 and "conv" not in shape.name:
            share = 0.5 if ".experts." in shape.name else 1.0
            active += share * shape.numel
    assert found == 2 * tokens * active


@pytest.mark.parametrize("mixer", ["long_convolution", "recurrent"])
def test_mixers_with_work_of_their_own_have_products_too(mixer: str) -> None:
    made = part(mixer={"name": mixer} if mixer == "long_convolution" else {"name": mixer, "heads": 4})
    assert len(products(made, VOCAB, BATCH, LENGTH)) > 3


def test_models_take_turns_forth_and_back(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[tuple[int, int, int]]()

    def seconds(product: tuple[int, int, int], **given: Any) -> float:
        asked.append(product)
        return 1.0 if product[1] == 32 else 0.5

    monkeypatch.setattr(product_rates, "_seconds", seconds)
    parts = [part(), part(d_model=64)]
    found = time_shapes(parts, VOCAB, batch=BATCH, length=LENGTH, repeats=3)
    first, second = (products(each, VOCAB, BATCH, LENGTH) for each in parts)
    turns = asked[len(set(first) | set(second)) :]
    assert turns == [*first, *second, *second, *first, *first, *second]
    seconds_of = sum((1.0 if size[1] == 32 else 0.5) * count for size, count in first.items())
    total = sum(6 * n * i * o * count for (n, i, o), count in first.items())
    assert found[0].rates == (total / seconds_of,) * 3
    assert found[0].flops == total / (BATCH * LENGTH)


def test_large_products_are_timed_with_fewer_vectors() -> None:
    big = part(d_model=4096, layers=1, feed_forward={"name": "swiglu", "hidden": 11008})
    small = product_rates._bounded([big], 32000, 64, 1024)
    assert small == (1, 16)
    assert product_rates._bounded([part()], VOCAB, 64, 1024) == (64, 1024)
    batch, length = product_rates._bounded([part(d_model=512)], 32000, 64, 16)
    assert length == 16
    assert 1 <= batch < 64


def test_efficient_are_those_close_to_the_quickest() -> None:
    shapes = [TimedShape(part(), 1, 1.0, rates) for rates in ((90.0,), (1.0, 100.0, 200.0), (96.0, 96.0), (94.9,))]
    assert [shape.rate for shape in efficient(shapes)] == [100.0, 96.0]
    assert [shape.spread for shape in shapes] == [1.0, 200.0, 1.0, 1.0]


def test_a_product_is_timed_with_both_gradients() -> None:
    calls = list[torch.Size]()

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = function(*args, **(kwargs or {}))
            if function is torch.ops.aten.mm.default:
                calls.append(out.shape)
            return out

    with Watch():
        assert product_rates._seconds((5, 4096, 4096), torch.device("cpu"), torch.float32) > 0
    assert calls == [(5, 4096), (5, 4096), (4096, 4096)]

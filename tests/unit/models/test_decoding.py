"""Cached steps: padded rows, rows taken again, layouts of weights, int8, the same bits in any batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from isoflop.core.contracts import Treatment
from isoflop.core.errors import UsageError
from isoflop.core.registry import get
from isoflop.models.cache import Padding
from isoflop.models.decoding import WeightLayout, laid_out
from isoflop.models.kernels import decoding, reference_rms_norm, rms_norm
from isoflop.models.layers import Matrix
from isoflop.models.patterns.window import WindowPattern
from isoflop.models.transformer import CachingTransformer
from transformer_toys import VOCAB, context, part

MODELS: dict[str, dict[str, Any]] = {
    "plain": {},
    "grouped": {"mixer": {"heads": 4, "kv_heads": 2}, "tied": True},
    "window": {"mixer": {"heads": 4, "kv_heads": 1, "pattern": {"name": "window", "size": 5}}},
    "learned positions": {"positions": 64, "mixer": {"heads": 4, "position": "none"}, "norm": "layer"},
    "capped": {"mixer": {"heads": 4, "kv_heads": 2, "cap": 5.0, "scale": 0.3, "bias": True, "out_bias": True}},
    "closures": {"feed_forward": {"name": "geglu", "bias": True}, "arrangement": "sandwich"},
    "prefix": {"mixer": {"heads": 2, "pattern": {"name": "prefix", "size": 4}}},
}


def built(name: str, **changes: Any) -> CachingTransformer:
    model = part(**MODELS[name]).build(context(**changes))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():  # biases begin at zero, which would hide that one is left out
            p.add_(0.05 * torch.randn(p.shape, generator=generator))
    assert isinstance(model, CachingTransformer)
    return model


def tokens(batch: int, length: int, seed: int = 0) -> Tensor:
    return torch.randint(VOCAB, (batch, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_rows_that_begin_at_different_places_give_the_logits_of_each_alone(name: str) -> None:
    model, x, pads = built(name), tokens(4, 24), [0, 3, 11, 3]
    for row, pad in enumerate(pads):
        x[row, :pad] = row  # whatever stands there
    cache = model.make_cache(4, 4, pads=pads)
    got = torch.cat([model.step(piece, cache) for piece in x.split([12, 1, 3, *[1] * 8], 1)], 1)
    for row, pad in enumerate(pads):
        torch.testing.assert_close(got[row, pad:], model(x[row : row + 1, pad:])[0], rtol=0, atol=1e-5)
    assert got.isfinite().all()


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_rows_taken_again_go_on_by_themselves(name: str) -> None:
    model, x, pads = built(name), tokens(3, 10), [2, 0, 5]
    cache = model.make_cache(3, 16, pads=pads)
    model.step(x, cache)
    rows = [2, 0, 0, 2]
    cache.select(rows)
    more = tokens(4, 4, seed=1)
    got = torch.cat([model.step(piece, cache) for piece in more.split(1, 1)], 1)
    for i, row in enumerate(rows):
        whole = torch.cat([x[row, pads[row] :], more[i]])[None]
        torch.testing.assert_close(got[i], model(whole)[0, -4:], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_only_the_last_logits_are_computed_where_they_are_asked_for(name: str) -> None:
    model, x = built(name), tokens(2, 9)
    logits = model.step(x, model.make_cache(2, 9), last=2)
    torch.testing.assert_close(logits, model(x)[:, -2:], rtol=0, atol=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("weights", [None, "int8"])
def test_a_row_has_the_same_bits_whatever_stands_beside_it(precision: str, weights: Any) -> None:
    """From two rows on, and always in bf16 and int8; a single fp32 row reads its weights in another order."""
    model, x = built("grouped", precision=precision), tokens(8, 12)

    def logits(rows: list[int]) -> Tensor:
        cache = model.prepared(len(rows), weights).make_cache(len(rows), 12)
        return torch.cat([model.step(piece, cache) for piece in x[rows].split([9, 1, 1, 1], 1)], 1)

    every = logits(list(range(8)))
    for rows in ([3, 5], [5, 3, 1], [0, 1, 2, 3, 4]):
        assert torch.equal(logits(rows), every[rows])
    alone = logits([3])
    if precision == "bf16" or weights:
        assert torch.equal(alone, every[3:4])
    else:
        torch.testing.assert_close(alone, every[3:4], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_int8_weights_stay_near(name: str) -> None:
    model, x = built(name), tokens(3, 20)
    exact = model(x)
    rounded = model.step(x, model.prepared(3, "int8").make_cache(3, 20))
    off = (rounded - exact).norm() / exact.norm()
    assert 1e-4 < off < 0.06, "as many roundings as 8 bits make, no more and no fewer"


def test_int8_products_round_each_row_and_each_vector_by_its_own_scale() -> None:
    weight, bias = torch.tensor([[1.0, -2.0], [300.0, 100.0], [0.0, 0.0]]), torch.tensor([0.0, 0.5, 7.0])
    product = WeightLayout(2, "int8").linear(weight, bias)
    x = torch.tensor([[1.0, 0.0], [0.0, -1000.0], [0.0, 0.0]])
    wanted = x @ weight.t() + bias
    torch.testing.assert_close(product(x), wanted, rtol=0.01, atol=1e-6)


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layouts_multiply_alike(rows: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    for shape in ((5, 3), (96, 64), (33, 130)):
        matrix = Matrix(*shape, bias=True)
        with torch.no_grad():
            matrix.weight.copy_(torch.randn(shape, generator=generator))
            matrix.bias.copy_(torch.randn(shape[0], generator=generator))  # type: ignore[union-attr]
        x = torch.randn(rows, 1, shape[1], generator=generator).to(dtype)
        with torch.no_grad():
            plain = matrix.product(dtype)(x)
            laid = WeightLayout(rows).of((matrix.product(dtype),))[0](x)
        assert laid.dtype == dtype
        torch.testing.assert_close(laid, plain, rtol=1e-5 if dtype == torch.float32 else 0.02, atol=1e-5)


def test_products_of_unknown_kinds_stay() -> None:
    product = lambda x: x  # noqa: E731
    assert WeightLayout(1).of(product) is product


@torch.no_grad()
def test_a_laid_out_copy_shares_plain_weights_and_bakes_the_others_in() -> None:
    lora = get("parametrization", "lora")(targets=("*.mixer.q",))
    model = part().treated(Treatment(lora)).build(context())  # type: ignore[arg-type]
    for name, p in model.named_parameters():
        if ".parametrization." in name:
            p.fill_(0.1)
    before = {name: p.clone() for name, p in model.state_dict().items()}
    twin = laid_out(model, WeightLayout(2))
    assert not any(".parametrization." in name for name, _ in twin.named_parameters())
    for name, p in twin.named_parameters():
        own = model.get_parameter(name)
        assert (p.data_ptr() == own.data_ptr()) == (not name.endswith("mixer.q.weight")), name
        assert not p.requires_grad
    x = tokens(2, 8)
    torch.testing.assert_close(model.step(x, model.make_cache(2, 8)), model(x), rtol=0, atol=1e-5)
    assert all(torch.equal(p, before[name]) for name, p in model.state_dict().items())


def test_learned_positions_end_at_the_longest_row_and_not_at_the_padding() -> None:
    model = part(positions=8, mixer={"heads": 4, "position": "none"}).build(context())
    cache = model.make_cache(2, 8, pads=[3, 2])
    model.step(tokens(2, 10), cache)
    with pytest.raises(UsageError, match="9 tokens are more than the 8 positions"):
        model.step(tokens(2, 1), cache)


def test_padding_sees_itself_alone_and_nothing_sees_it() -> None:
    padding = Padding([0, 2], torch.device("cpu"))
    assert padding.seen(None, 3, 3).int().tolist() == [
        [[[1, 0, 0], [1, 1, 0], [1, 1, 1]]],
        [[[1, 0, 0], [0, 1, 0], [0, 0, 1]]],
    ]
    assert padding.seen(WindowPattern(size=2), 1, 5).int().tolist() == [[[[0, 0, 0, 1, 1]]], [[[0, 0, 0, 1, 1]]]]
    assert padding.seen(None, 1, 4).int().tolist() == [[[[1, 1, 1, 1]]], [[[0, 0, 1, 1]]]]


@pytest.mark.parametrize("mixer", [{"heads": 4, "kv_heads": 2}, {"heads": 4, "qk_norm": True}])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@torch.no_grad()
def test_steps_leave_no_trace_of_a_gradient(mixer: dict[str, Any], precision: str) -> None:
    model, x = part(mixer=mixer).build(context(precision=precision)), tokens(2, 6)
    with torch.enable_grad():
        logits = model.step(x, model.make_cache(2, 6))
    assert not logits.requires_grad
    torch.testing.assert_close(logits.float(), model(x).float(), rtol=0, atol=1e-5 if precision == "fp32" else 0.1)


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-3, 1.0, 1e3, 1e15])
@pytest.mark.parametrize("eps", [1e-6, 1e-5, 0.1])
def test_the_norm_of_a_step_is_the_norm(scale: float, eps: float) -> None:
    """Elsewhere, without ``decoding``, it has the bits of training."""
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(3, 2, 48, generator=generator) * scale, torch.randn(48, generator=generator)
    with decoding():
        quick = rms_norm(x, weight, eps, torch.float32)
    torch.testing.assert_close(quick, reference_rms_norm(x, weight, eps, torch.float32), rtol=1e-5, atol=0)
    with torch.no_grad():
        evaluated = rms_norm(x, weight, eps, torch.float32)
    assert torch.equal(evaluated, rms_norm(x, weight.requires_grad_(), eps, torch.float32))

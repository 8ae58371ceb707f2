"""GPTQ against its formula, read with inverses of ever smaller matrices, and what it must be better at."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from compress_toys import Text, logits, plain, transform
from isoflop.compress.grids import Grid, integers
from isoflop.compress.transform import transformed
from isoflop.compress.transforms import gptq as module
from isoflop.compress.transforms.gptq import gptq
from isoflop.core.errors import NumericsError


def drawn(seed: int, rows: int, columns: int, positions: int) -> tuple[Tensor, Tensor]:
    """A matrix, and inputs that have much to do with each other."""
    draw = torch.Generator().manual_seed(seed)
    mixing = torch.randn(columns, columns, generator=draw, dtype=torch.float64)
    x = torch.randn(positions, columns, generator=draw, dtype=torch.float64) @ mixing
    return torch.randn(rows, columns, generator=draw, dtype=torch.float64), x


def slowly(weight: Tensor, gram: Tensor, bits: int, block: int, damping: float) -> Tensor:
    """Each weight in turn is rounded, and those behind it move to the least squared error that is left to them.

    With F the columns that are left and e their first one, that is -(w_e - q_e) / [H_F^-1]_ee times the e-th column of
    H_F^-1 (equation 2 of the paper), the inverse taken anew each time.
    """
    largest = 2 ** (bits - 1) - 1
    h = gram + damping * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    left, made = weight.clone(), torch.zeros_like(weight)
    for i in range(weight.shape[1]):
        if i % block == 0:
            scale = left[:, i : i + block].abs().amax(1) / largest
        inverse = torch.linalg.inv(h[i:, i:])
        for row in range(len(weight)):
            code = torch.clamp(torch.round(left[row, i] / scale[row]), -largest, largest)
            made[row, i] = code * scale[row]
            left[row, i:] -= (left[row, i] - made[row, i]) / inverse[0, 0] * inverse[:, 0]
    return made


@pytest.mark.parametrize(("columns", "block", "bits"), [(7, 7, 4), (12, 4, 3), (10, 4, 2), (9, 1, 4)])
def test_it_is_the_formula(columns: int, block: int, bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    weight, x = drawn(columns, 5, columns, 40)
    wanted = slowly(weight, x.t() @ x, bits, block, 0.01)
    for lazy in (128, 3):
        monkeypatch.setattr(module, "LAZY", lazy)
        got = gptq(weight, x.t() @ x, Grid(integers(bits), block), 0.01)
        torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_what_comes_out_is_nearer_than_by_rounding_to_nearest(bits: int) -> None:
    grid = Grid(integers(bits), 8)
    for seed in range(20):
        weight, x = drawn(seed, 16, 32, 200)
        made, nearest = gptq(weight, x.t() @ x, grid), grid.rounded(weight)
        error, least = (float(((w - weight) @ x.t()).square().sum()) for w in (made, nearest))
        assert error < least, (seed, error, least)
        assert float((made - weight).norm()) >= float((nearest - weight).norm()), "in the weights it is farther"


def test_inputs_that_have_nothing_to_do_with_each_other_make_it_rounding_to_nearest() -> None:
    weight, _ = drawn(0, 6, 20, 1)
    gram = torch.diag(torch.rand(20, generator=torch.Generator().manual_seed(1)).double() + 0.1)
    grid = Grid(integers(4), 5)
    torch.testing.assert_close(gptq(weight, gram, grid), grid.rounded(weight))


def test_inputs_that_never_come_and_those_that_are_no_numbers() -> None:
    weight, x = drawn(2, 4, 6, 30)
    x[:, 2] = 0
    made = gptq(weight, x.t() @ x, Grid(integers(4)))
    assert bool((made[:, 2] == 0).all())
    assert bool(torch.isfinite(made).all())
    x[0, 0] = float("nan")
    with pytest.raises(NumericsError, match="not finite"):
        gptq(weight, x.t() @ x, Grid(integers(4)))


def test_layers_are_rounded_for_what_the_rounded_ones_before_them_give() -> None:
    """The second layer's inputs are those behind the first one as it was rounded; nothing else of the model changes."""
    model, text = plain("grouped"), Text()
    made = transformed(model, [transform("gptq", format="int3", block=8, windows=20)], text).model
    for name, tensor in made.tensors.items():
        changed = name.startswith("blocks.") and name.endswith("weight") and tensor.ndim == 2
        assert torch.equal(tensor, model.tensors[name]) != changed, name
    first = {name: tensor for name, tensor in made.tensors.items() if name.startswith("blocks.0.")}
    live = text.live(model.having(first, {}))
    seen: list[Tensor] = []
    handle = live.blocks[1].mixer_norm.register_forward_hook(lambda module, given, out: seen.append(out))  # type: ignore[union-attr,index]
    with torch.no_grad():
        live(text.tokens(20, 0))
    handle.remove()
    rows = torch.cat(seen).flatten(0, -2).double()
    name = "blocks.1.mixer.q.weight"
    wanted = gptq(model.tensors[name], rows.t() @ rows, Grid(integers(3), 8, half=True))
    torch.testing.assert_close(made.tensors[name], wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["tied", "several"])
def test_logits_stay_nearer_than_by_rounding_to_nearest(kind: str) -> None:
    model = plain(kind)
    off = {}
    for name in ("gptq", "round"):
        fields = {"windows": 40} if name == "gptq" else {}
        made = transformed(model, [transform(name, format="int3", block=16, **fields)], Text()).model
        off[name] = float((logits(made) - logits(model)).square().mean())
    assert off["gptq"] < off["round"]

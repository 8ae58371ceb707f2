"""AWQ: the same model before it is rounded, whatever feeds what; a smaller error after."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from compress_toys import KINDS, Text, logits, plain, transform
from isoflop.compress.grids import Grid, integers
from isoflop.compress.transform import transformed
from isoflop.compress.transforms.awq import best_scale, loss
from isoflop.core.contracts import PlainModel

MORE: dict[str, dict[str, Any]] = {
    **KINDS,
    "offset": {"norm": "rms_offset", "arrangement": "parallel"},
    "relu": {"feed_forward": "squared_relu", "arrangement": "output_norm"},
    "grouped without norms": {"mixer": {"heads": 4, "kv_heads": 2, "bias": True}},
}


def spread(model: PlainModel) -> PlainModel:
    """The model with gains of very different sizes, so that there is something to scale."""
    draw = torch.Generator().manual_seed(7)
    gains = {
        name: tensor * torch.exp(torch.randn(tensor.shape, generator=draw))
        for name, tensor in model.tensors.items()
        if name.endswith("norm.weight") and tensor.ndim == 1
    }
    return model.having(gains, {})


@pytest.mark.parametrize("kind", MORE)
def test_before_rounding_it_is_the_same_model(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With rounding the choice of the scale alone is as ever; then nothing is rounded."""
    model = spread(plain(**({"kind": kind} if kind in KINDS else MORE[kind])))
    part: Any = transform("awq", format="int3", block=16, windows=20)
    with monkeypatch.context() as patch:
        patch.setattr("isoflop.compress.transforms.awq.rounded", lambda module, grid: module.weight)
        made = transformed(model, [part], Text()).model
    torch.testing.assert_close(logits(made), logits(model), rtol=1e-3, atol=1e-3)
    moved = {name for name, tensor in made.tensors.items() if not torch.equal(tensor, model.tensors[name])}
    kinds = {name.split(".", 2)[-1].removesuffix(".weight") for name in moved}
    feeders = {"mixer.v", "feed_forward.up"} if kind != "relu" else {"mixer.v"}
    assert feeders <= kinds, "what enters the last products of a layer is scaled in what gives it"
    if kind != "relu":  # its layers read the stream itself, and no norm
        assert {"mixer_norm", "feed_forward_norm", "mixer.q", "mixer.k", "mixer.out"} <= kinds
    for name in moved:
        if name.endswith("down.weight"):
            assert name.replace("down", "gate") in model.tensors, "only a gated unit is linear in its rows"


@pytest.mark.parametrize("kind", ["plain", "grouped"])
def test_logits_stay_nearer_than_by_rounding_to_nearest(kind: str) -> None:
    model = spread(plain(kind))
    off = {}
    for name in ("awq", "round"):
        fields = {"windows": 40} if name == "awq" else {}
        made = transformed(model, [transform(name, format="int3", block=16, **fields)], Text()).model
        off[name] = float((logits(made) - logits(model)).square().mean())
        if name == "awq":
            weight = made.tensors["blocks.0.feed_forward.down.weight"]
            torch.testing.assert_close(Grid(integers(3), 16).rounded(weight), weight, msg="it lies on the grid")
    assert off["awq"] < off["round"]


def test_the_best_scale_is_the_best_of_twenty_and_never_worse_than_none() -> None:
    draw, grid = torch.Generator().manual_seed(3), Grid(integers(3), 8)
    for _ in range(10):
        weight = torch.randn(6, 16, generator=draw)
        x = torch.randn(50, 16, generator=draw) * torch.exp(2 * torch.randn(16, generator=draw))
        size, gram = x.abs().mean(0), x.t() @ x
        scale = best_scale([weight], size, gram, grid)
        errors = []
        for k in range(20):
            tried = size ** (k / 20)
            tried = tried / (tried.max() * tried.min()).sqrt()
            made = grid.rounded(weight * tried) / tried
            errors.append(float(((weight - made) @ x.t()).square().sum()))
        assert loss(weight, scale, gram, grid) == pytest.approx(min(errors), rel=1e-3)
        assert min(errors) <= errors[0]

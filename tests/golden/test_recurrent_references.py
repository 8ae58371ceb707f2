"""One recurrent layer against float64 references: its output and every gradient."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from isoflop.models.arrangements.pre_norm import PreNorm
from isoflop.models.feed_forwards.gelu import GeluPart
from isoflop.models.layers import RmsNorm
from isoflop.models.mixers.recurrent import Recurrent
from isoflop.models.transformer import Block
from transformer_toys import context

EPS = 1e-6


def block(given: dict[str, Tensor], dtype: torch.dtype) -> tuple[Block, dict[str, nn.Parameter]]:
    """The block with the reference's weights; its GELU is by the error function."""
    width, heads = 16, 2
    mixer = Recurrent(width, heads, width // heads, EPS)
    feed_forward = GeluPart(hidden=len(given["W1"]), exact=True).build(width, context())
    made = Block(mixer, feed_forward, PreNorm.rounds, lambda: RmsNorm(width, EPS), dtype).to(dtype)
    named = {
        "Wq": mixer.q,
        "Wk": mixer.k,
        "Wv": mixer.v,
        "Wo": mixer.out,
        "W1": feed_forward.up,
        "W2": feed_forward.down,
    }
    with torch.no_grad():
        for name, matrix in named.items():
            matrix.weight.copy_(given[name])
    return made, {name: matrix.weight for name, matrix in named.items()}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("number", range(3))
def test_output_and_gradients_are_the_references(
    shared: Path, number: int, dtype: torch.dtype, tolerance: float
) -> None:
    with np.load(shared / "data" / "models" / f"ref_vectors_{number}.npz") as file:
        given = {key[3:]: torch.from_numpy(file[key]) for key in file.files if key.startswith("rt_")}
    made, weights = block(given, dtype)
    x = given["x"].to(dtype).requires_grad_()
    out = made(x)
    (out * given["cot"].to(dtype)).sum().backward()
    torch.testing.assert_close(out.double(), given["out"], rtol=0, atol=tolerance)
    torch.testing.assert_close(x.grad.double(), given["gx"], rtol=0, atol=tolerance)  # type: ignore[union-attr]
    for name, weight in weights.items():
        torch.testing.assert_close(weight.grad.double(), given[f"g{name}"], rtol=0, atol=tolerance)  # type: ignore[union-attr]

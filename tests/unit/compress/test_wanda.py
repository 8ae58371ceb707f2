"""Wanda: |W| times the norms of the inputs, row by row or by groups, against plain loops."""

from __future__ import annotations

import pytest
import torch

from compress_toys import Text, plain, transform
from isoflop.compress.transform import transformed
from isoflop.compress.transforms.wanda import WandaPart, scores_of
from isoflop.core.errors import UsageError


def test_scores_are_weights_times_norms_of_inputs() -> None:
    draw = torch.Generator().manual_seed(0)
    weight, x = torch.randn(3, 8, generator=draw), torch.randn(20, 8, generator=draw).double()
    scores = scores_of(weight, x.t() @ x)
    for i in range(3):
        for j in range(8):
            assert scores[i, j].item() == pytest.approx(abs(weight[i, j].item()) * float(x[:, j].norm()))


@pytest.mark.parametrize("fields", [{"n": 1, "m": 4}, {"sparsity": 0.5}])
def test_the_largest_scores_of_each_row_or_group_stay(fields: dict[str, float]) -> None:
    draw = torch.Generator().manual_seed(1)
    weight, x = torch.randn(5, 8, generator=draw), torch.randn(20, 8, generator=draw) * torch.arange(1, 9)
    gram = x.t() @ x
    made = WandaPart(**fields).solved(weight, gram)
    size, kept = (4, 1) if "m" in fields else (8, 4)
    for i in range(5):
        for first in range(0, 8, size):
            group = list(range(first, first + size))
            order = sorted(group, key=lambda j: (-abs(weight[i, j].item()) * gram[j, j].item() ** 0.5, j))
            for j in group:
                assert made[i, j].item() == (weight[i, j].item() if j in order[:kept] else 0)


def test_equal_scores_keep_the_first() -> None:
    made = WandaPart(sparsity=0.5).solved(torch.ones(2, 4), torch.eye(4))
    assert made.tolist() == [[1, 1, 0, 0]] * 2


def test_a_model_keeps_what_its_text_needs() -> None:
    model = plain("several")
    made = transformed(model, [transform("wanda", n=1, m=4, windows=10)], Text()).model
    for name, tensor in made.tensors.items():
        if name.startswith("blocks.") and tensor.ndim == 2:
            assert bool(((tensor.view(-1, 4) != 0).sum(1) == 1).all()), name
            assert bool(((tensor == 0) | (tensor == model.tensors[name])).all())
    with pytest.raises(UsageError, match="groups of 5"):
        transformed(model, [transform("wanda", n=1, m=5, windows=2)], Text())
    with pytest.raises(UsageError, match="lies in no layer"):
        transformed(model, [transform("wanda", targets=["*"], windows=2)], Text())

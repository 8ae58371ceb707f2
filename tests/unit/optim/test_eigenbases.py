"""Eigensystems where LAPACK's single precision gives up, the blocks of Gram matrices, and grids of rates."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from isoflop.optim import Shampoo
from isoflop.optim.eigenbases import eigensystem, row_blocks
from isoflop.optim.groups import factor2

HONEST = torch.linalg.eigh


def raises(x: Tensor, *more: Any) -> Any:
    if x.dtype == torch.float32:
        raise torch.linalg.LinAlgError("did not converge")
    return HONEST(x, *more)


def returns_nan(x: Tensor, *more: Any) -> Any:
    values, vectors = HONEST(x, *more)
    return values, vectors * torch.nan if x.dtype == torch.float32 else vectors


@pytest.mark.parametrize("broken", [raises, returns_nan])
def test_a_failure_in_single_precision_is_made_good_in_double(broken: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(80, 20, generator=torch.Generator().manual_seed(0))
    gram = x @ x.T  # 60 of its eigenvalues are zero
    monkeypatch.setattr(torch.linalg, "eigh", broken)
    values, vectors = eigensystem(gram)
    assert values.dtype == vectors.dtype == torch.float32
    torch.testing.assert_close((vectors * values) @ vectors.T, gram, rtol=1e-4, atol=1e-4)
    p = torch.nn.Parameter(torch.zeros(80, 80))
    p.grad = gram
    Shampoo([p], betas=(0.9, 0.95), grafting="adam").step()
    assert torch.isfinite(p).all()
    assert p.abs().max() > 0


def test_a_failure_in_double_precision_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(x: Tensor) -> Any:
        raise torch.linalg.LinAlgError("did not converge")

    monkeypatch.setattr(torch.linalg, "eigh", fails)
    with pytest.raises(torch.linalg.LinAlgError, match="converge"):
        eigensystem(torch.eye(3))


def test_large_gram_matrices_are_updated_in_four_blocks_of_rows() -> None:
    assert list(row_blocks(255)) == [(0, 255)]
    assert list(row_blocks(256)) == [(0, 64), (64, 128), (128, 192), (192, 256)]
    assert list(row_blocks(258)) == [(0, 65), (65, 130), (130, 195), (195, 258)]


def test_a_grid_of_doublings_ends_at_the_last_that_is_not_beyond_its_end() -> None:
    assert factor2(1, 8) == (1, 2, 4, 8)
    assert factor2(1, 7.99) == (1, 2, 4)
    assert len(factor2(1.25e-4, 3.2e-2)) == 9, "the end is hit but for rounding"
    assert factor2(0.1 + 0.2, 1.2)[-1] == pytest.approx(1.2)

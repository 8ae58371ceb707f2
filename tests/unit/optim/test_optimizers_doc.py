"""What docs/optimizers.md says by hand is so."""

import pytest
import torch

from isoflop.optim import SOAP, SimplifiedAdEMAMix


def test_the_guide_is_right_about_the_null_space() -> None:
    sums = []
    for noise in (0, 1e-10):
        p = torch.nn.Parameter(torch.ones(12, 3, dtype=torch.float64))
        optimizer = SOAP([p])
        generator = torch.Generator().manual_seed(0)
        for _ in range(20):
            g, error = (torch.randn(12, 3, generator=generator, dtype=torch.float64) for _ in range(2))
            p.grad = g * (1 + noise * error)
            optimizer.step()
        sums.append(p.detach().sum().item())
    assert sums[0] == pytest.approx(sums[1], rel=1e-6)


def test_the_guide_is_right_about_the_sum() -> None:
    p = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = SimplifiedAdEMAMix([p], lr=1e-3, betas=(0.99, 0.95), eps=1e-30)
    for t in range(1, 6):
        before = p.item()
        p.grad = torch.full((1,), 3.0, dtype=torch.float64)
        optimizer.step()
        assert before - p.item() == pytest.approx(1e-3 * (1 - 0.99**t) / 0.01, rel=1e-9)

"""What every part of the slot position must do."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from isoflop.core.contracts import PositionPart
from isoflop.core.registry import get, names
from isoflop.models.attend import rotate

FORMS: dict[str, dict[str, Any]] = {
    "linear": {"factor": 4.0},
    "llama3": {"original": 64, "low": 1.0, "high": 4.0},
    "yarn": {"original": 64, "fast": 8.0, "slow": 1.0},
}
"""Fields with which a part differs from the usual positions on small heads."""


def part_of(name: str, **fields: Any) -> PositionPart:
    return get("position", name)(**FORMS.get(name, {}), **fields)  # type: ignore[return-value]


ROTARY = [name for name in names("position") if part_of(name).rates(16, 1e4) is not None]


@pytest.mark.parametrize("name", names("position"))
def test_it_says_what_it_is(name: str) -> None:
    part = part_of(name)
    assert part.card.summary
    assert part.problems(16) == []
    assert bool(part.problems(15)) == (name in ROTARY)


@pytest.mark.parametrize("fraction", [1.0, 0.5, 0.25])
@pytest.mark.parametrize("name", ROTARY)
def test_rates_fall_and_a_score_knows_the_distance_alone(name: str, fraction: float) -> None:
    part, head_dim = part_of(name, fraction=fraction), 32
    rates = part.rates(head_dim, 500.0)
    assert rates is not None
    assert (rates.dtype, rates.shape) == (torch.float64, (head_dim // 2,))
    turning = int(head_dim * fraction) // 2
    assert bool((rates[:turning].diff() < 0).all())
    assert bool((rates[:turning] > 0).all())
    assert bool((rates[turning:] == 0).all())
    q, k = torch.randn(2, 1, 1, 1, head_dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def turned(x: torch.Tensor, position: int) -> torch.Tensor:
        angles = position * rates[None]  # type: ignore[index]
        return rotate(x, angles.cos(), angles.sin())

    def score(i: int, j: int) -> float:
        return float((turned(q, i) * turned(k, j)).sum())

    assert score(9, 4) == pytest.approx(score(25, 20), rel=1e-9)
    assert score(9, 4) != pytest.approx(score(9, 5), rel=1e-9)


def test_rates_by_hand() -> None:
    usual = [100.0 ** -(i / 4) for i in range(4)]
    assert part_of("rotary").rates(8, 100.0).tolist() == pytest.approx(usual)  # type: ignore[union-attr]
    assert part_of("linear").rates(8, 100.0).tolist() == pytest.approx([r / 4 for r in usual])  # type: ignore[union-attr]
    found = part_of("llama3", factor=8.0).rates(8, 100.0).tolist()  # type: ignore[union-attr]
    for rate, changed in zip(usual, found, strict=True):
        wavelength = 2 * math.pi / rate
        if wavelength > 64 / 1.0:
            wanted = rate / 8
        elif wavelength < 64 / 4.0:
            wanted = rate
        else:
            smooth = (64 / wavelength - 1) / (4 - 1)
            wanted = (1 - smooth) * rate / 8 + smooth * rate
        assert changed == pytest.approx(wanted)
    yarn = part_of("yarn", factor=4.0, whole=False)
    low, high = (8 * math.log(64 / (turns * 2 * math.pi)) / (2 * math.log(100)) for turns in (8, 1))
    for i, (rate, changed) in enumerate(zip(usual, yarn.rates(8, 100.0).tolist(), strict=True)):  # type: ignore[union-attr]
        ramp = min(max((i - max(low, 0)) / (min(high, 7) - max(low, 0)), 0), 1)
        assert changed == pytest.approx(rate * (1 - ramp) + rate / 4 * ramp)
    assert yarn.magnitude == pytest.approx(0.1 * math.log(4) + 1)
    assert part_of("yarn", attention=1.5).magnitude == 1.5

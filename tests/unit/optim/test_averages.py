from typing import Any

import pytest
import torch

from isoflop.core.registry import get
from isoflop.optim import EMA, SFA, HalfLife, LatestK, SeveralEMA, Tail


def follow(average: Any, p: torch.nn.Parameter, values: list[float]) -> list[float]:
    """The evaluated scalar after each value of the weights."""
    seen = []
    for t, value in enumerate(values):
        with torch.no_grad():
            p.fill_(value)
        average.update(t)
        with average.evaluation_weights():
            seen.append(p.item())
    return seen


@pytest.fixture
def p() -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))


def test_the_full_mean_is_exact(p: torch.nn.Parameter) -> None:
    values = [float(i * i % 7) for i in range(40)]
    expected = [sum(values[: i + 1]) / (i + 1) for i in range(40)]
    assert follow(Tail([p], fraction=1.0), p, values) == pytest.approx(expected)


@pytest.mark.parametrize("fraction", [0.25, 0.5])
def test_a_tail_begins_where_it_should_up_to_half_a_block(p: torch.nn.Parameter, fraction: float) -> None:
    steps, blocks = 200, 8
    seen = follow(Tail([p], fraction, blocks), p, [float(i) for i in range(steps)])
    for i, value in enumerate(seen):
        first = 2 * value - i  # the mean of first .. i is (first + i) / 2
        assert first == pytest.approx(round(first), abs=1e-9)
        assert abs(first - (1 - fraction) * (i + 1)) <= 1 + (i + 1) / (2 * blocks)


def test_latest_k(p: torch.nn.Parameter) -> None:
    assert follow(LatestK([p], k=2, every=1), p, [1, 3, 8, 0]) == pytest.approx([1, 2, 5.5, 4])
    assert follow(LatestK([p], k=2, every=2), p, [1, 3, 8, 0, 4]) == pytest.approx([1, 1, 4.5, 4.5, 6])


def test_half_life_is_a_fraction_of_time(p: torch.nn.Parameter) -> None:
    steps, fraction = 4000, 0.1
    average = HalfLife([p], fraction)
    for t in range(steps):
        with torch.no_grad():
            p.fill_(float(t < steps * (1 - fraction)))
        average.update(t)
    # iterates older than a half-life weigh just less than half: the half-life was shorter when they were taken
    with average.evaluation_weights():
        assert p.item() == pytest.approx((1 - fraction) ** (0.6931 / fraction), abs=0.01)


def test_several_averages_are_those_of_each(p: torch.nn.Parameter) -> None:
    values = [1.0, 5.0, -2.0, 4.0]
    several = SeveralEMA([p], [0.5, 0.9], evaluate=0.5)
    assert follow(several, p, values) == pytest.approx(follow(EMA([p], 0.5), p, values))
    with several.evaluation_weights(0.9):
        found = p.item()
    assert found == pytest.approx(follow(EMA([p], 0.9), p, values)[-1])


def test_sfa_is_sgd_with_a_penalty_to_the_start() -> None:
    lr, strength, start = 0.1, 0.3, torch.tensor([2.0, -1.0], dtype=torch.float64)
    p, q = torch.nn.Parameter(start.clone()), start.clone()
    average = SFA([p], period=1, beta=lr * strength)
    for t in range(20):
        gradient = torch.tensor([1.0, 0.5], dtype=torch.float64) * (p.detach() - 1)
        penalised = torch.tensor([1.0, 0.5], dtype=torch.float64) * (q - 1)
        with torch.no_grad():
            p.sub_(lr / (1 - lr * strength) * gradient)
        average.update(t)
        q = q - lr * penalised - lr * strength * (q - start)
    torch.testing.assert_close(p.detach(), q, rtol=1e-9, atol=1e-9)


def test_one_merge_at_the_end_is_an_interpolation(p: torch.nn.Parameter) -> None:
    average = SFA([p], period=3, beta=0.25)
    assert follow(average, p, [1, 2, 8]) == pytest.approx([1, 2, 6])


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda p: Tail([p], fraction=0.0), "fraction"),
        (lambda p: LatestK([p], k=0), "k and every"),
        (lambda p: HalfLife([p], fraction=1.5), "fraction"),
        (lambda p: SFA([p], period=0), "period"),
        (lambda p: SeveralEMA([p], [0.9], evaluate=0.5), "evaluate"),
        (lambda p: get("averaging", "several")(decays=(0.5,), evaluate=0.9), "evaluate"),
    ],
)
def test_illegal_arguments(make: Any, what: str, p: torch.nn.Parameter) -> None:
    with pytest.raises(ValueError, match=what):
        make(p)

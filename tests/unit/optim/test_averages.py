from typing import Any

import pytest
import torch

from isoflop.core.registry import get, names
from isoflop.core.roles import Group
from isoflop.optim import EMA, SFA, HalfLife, LatestK, SeveralEMA, Tail
from optim_toy import toy_context


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


BUILT: dict[str, tuple[dict[str, Any], Any]] = {
    "ema": ({"decay": 0.7}, lambda p: EMA([p], 0.7)),
    "half_life": ({"fraction": 0.3}, lambda p: HalfLife([p], 0.3)),
    "latest_k": ({"k": 2, "every": 3}, lambda p: LatestK([p], 2, 3)),
    "several": ({"decays": (0.5, 0.9, 0.8), "evaluate": 0.8}, lambda p: EMA([p], 0.8)),
    "sfa": ({"period": 0.3, "beta": 0.125}, lambda p: SFA([p], 3, 0.125)),
    "tail": ({"fraction": 0.25, "blocks": 2}, lambda p: Tail([p], 0.25, 2)),
}
"""Part -> fields that are no defaults, and the class as they mean it in a run of 10 steps."""
DEFAULTS: dict[str, Any] = {
    "ema": lambda p: EMA([p], 0.99),
    "half_life": lambda p: HalfLife([p], 0.1),
    "latest_k": lambda p: LatestK([p], 5, 10),
    "several": lambda p: EMA([p], 0.99),
    "sfa": lambda p: SFA([p], 10, 0.5),
    "tail": lambda p: Tail([p], 0.5, 4),
}
"""Part -> the class as its defaults mean it in a run of 40 steps."""


def walked(make: Any, horizon: int) -> list[float]:
    """What is evaluated after each step of a walk, from a start that is no zero."""
    p = torch.nn.Parameter(torch.full((1,), 3.0, dtype=torch.float64))
    average, seen = make(p), []
    for t in range(horizon):
        with torch.no_grad():
            p.add_(float(t * t % 7 - 2))
        average.update(t)
        with average.evaluation_weights():
            seen.append(p.item())
    return seen


def test_every_average_is_built_as_its_fields_say() -> None:
    assert set(BUILT) == set(DEFAULTS) == set(names("averaging"))


@pytest.mark.parametrize("name", BUILT)
def test_a_part_builds_the_class_that_its_fields_mean(name: str) -> None:
    fields, expected = BUILT[name]

    def part(p: torch.nn.Parameter) -> Any:
        return get("averaging", name)(**fields).build(toy_context((Group("hidden", ("w",), (p,)),), 10))

    assert walked(part, 10) == pytest.approx(walked(expected, 10), rel=1e-12)


@pytest.mark.parametrize("name", DEFAULTS)
def test_a_part_without_fields_builds_the_class_with_the_defaults_that_are_documented(name: str) -> None:
    def part(p: torch.nn.Parameter) -> Any:
        return get("averaging", name)().build(toy_context((Group("hidden", ("w",), (p,)),), 40))

    assert walked(part, 40) == pytest.approx(walked(DEFAULTS[name], 40), rel=1e-12)


def test_a_share_of_less_than_a_step_merges_after_every_step() -> None:
    p = torch.nn.Parameter(torch.zeros(1))
    assert get("averaging", "sfa")(period=0.01).build(toy_context((Group("hidden", ("w",), (p,)),), 10)).period == 1
    assert get("averaging", "sfa")(period=4).build(toy_context((Group("hidden", ("w",), (p,)),), 10)).period == 4

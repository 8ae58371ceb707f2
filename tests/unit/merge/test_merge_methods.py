"""Methods against slow, obvious forms in float64, and properties of single ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from isoflop import merge
from isoflop.core.errors import UsageError
from isoflop.core.rng import Rng
from isoflop.merge.method import uniform
from isoflop.merge.select import largest, threshold


def values(seed: int, shape: tuple[int, ...], coarse: bool) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return (x * 2).round() / 2 if coarse else x  # coarse: many equal magnitudes and zeros


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 1000), st.integers(1, 300), st.floats(0, 1), st.booleans(), st.booleans(), st.integers(1, 70))
def test_the_largest_are_those_of_a_stable_sort(
    seed: int, numel: int, share: float, coarse: bool, last_first: bool, length: int
) -> None:
    magnitude, count = values(seed, (numel,), coarse).abs(), round(share * numel)
    order = (
        np.argsort(magnitude.numpy(), kind="stable")[::-1]
        if last_first
        else np.argsort(-magnitude.numpy(), kind="stable")
    )
    wanted = torch.zeros(numel, dtype=torch.bool)
    wanted[order[:count].copy()] = True
    parts = [(at, magnitude[at : at + length]) for at in range(0, numel, length)]
    cut = largest(iter(parts), numel, count, last_first=last_first)
    assert torch.equal(torch.cat([cut.keeps(part, at) for at, part in parts]), wanted)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 1000), st.integers(1, 200), st.floats(0.01, 1), st.booleans())
def test_a_threshold_over_many_tensors_keeps_all_that_equal_the_smallest_kept(
    seed: int, numel: int, share: float, coarse: bool
) -> None:
    magnitude, count = values(seed, (numel,), coarse).abs(), max(1, round(share * numel))
    parts = [magnitude[at : at + 50] for at in range(0, numel, 50)]
    cut = threshold([parts, parts], count)
    assert cut.value == float(magnitude.sort(descending=True).values[count - 1])
    assert torch.equal(cut.keeps(magnitude, 0), magnitude >= cut.value)


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 1000),
    st.booleans(),
    st.booleans(),
    st.floats(0, 1),
    st.lists(st.integers(-200, 200).map(lambda hundredths: hundredths / 100), min_size=2, max_size=4),
)
def test_ties_is_its_slow_form(seed: int, coarse: bool, normalize: bool, density: float, weights: list[float]) -> None:
    base = values(seed, (7, 9), coarse).double()
    models = [base + values(seed + i + 1, (7, 9), coarse).double() for i in range(len(weights))]
    made = merge.ties(base, models, weight=tuple(weights), density=density, normalize=normalize, scale=0.7)
    wanted = torch.empty_like(base).reshape(-1)
    vectors = [(model - base).reshape(-1) for model in models]
    kept = []
    for vector in vectors:
        count = 0 if density <= 0 else max(1, int(density * 63)) if density < 1 else 63
        order = np.argsort(-vector.abs().float().numpy(), kind="stable")[:count]
        kept.append({int(place) for place in order})
    for place in range(63):
        entries = [w * float(v[place]) if place in k else 0.0 for w, v, k in zip(weights, vectors, kept, strict=True)]
        sign = 1 if sum(entries) >= 0 else -1
        agree = [number for number, entry in enumerate(entries) if entry * sign > 0]
        total = sum(entries[number] for number in agree)
        divisor = sum(weights[number] for number in agree) if normalize else 1.0
        wanted[place] = base.reshape(-1)[place] + 0.7 * total / (divisor or 1.0)
    torch.testing.assert_close(made.reshape(-1), wanted, atol=1e-9, rtol=1e-9)


def test_the_papers_ties_trims_over_all_tensors_together() -> None:
    base = {"a": torch.zeros(4), "b": torch.zeros(4)}
    model = {"a": torch.tensor([5.0, -4, 3, 2]), "b": torch.tensor([0.1, 0.2, -0.3, 9])}
    made = merge.ties_paper(base, [model], density=0.5)
    assert made["a"].tolist() == [5, -4, 3, 0]
    assert made["b"].tolist() == [0, 0, 0, 9]
    per_tensor = merge.ties(base["b"], [model["b"]], density=0.5)
    assert per_tensor.tolist() == pytest.approx([0, 0, -0.3, 9])


def test_peft_divides_by_the_number_that_agrees_and_elects_without_weights() -> None:
    base, one, two = torch.zeros(2), torch.tensor([1.0, 3.0]), torch.tensor([2.0, -1.0])
    assert merge.ties_peft(base, [one, two], weight=(1.0, 10.0)).tolist() == [(1 + 20) / 2, 3.0]
    assert merge.ties(base, [one, two], weight=(1.0, 10.0)).tolist() == pytest.approx([21 / 11, -1.0])
    three = [torch.tensor([-1.0]), torch.tensor([-1.0]), torch.tensor([5.0])]
    assert merge.ties_peft(torch.zeros(1), three, election="total").tolist() == [5.0]
    assert merge.ties_peft(torch.zeros(1), three, election="frequency").tolist() == [-1.0]


def test_breadcrumbs_drop_from_both_ends() -> None:
    vector = torch.tensor([1.0, -9, 2, 8, -3, 7, 4, -6, 5, 0])
    made = merge.breadcrumbs(torch.zeros(10), [vector], density=0.5, gamma=0.2)
    assert made.tolist() == [0, 0, 0, 0, -3, 7, 4, -6, 5, 0]
    assert int((merge.breadcrumbs(torch.zeros(10), [vector], density=0.9, gamma=0.5) != 0).sum()) == 8


@pytest.mark.parametrize("t", [-0.5, 0.0, 0.3, 1.0])
def test_slerp_keeps_the_length_of_equally_long_ends_and_ends_where_it_should(t: float) -> None:
    a, b = torch.tensor([3.0, 0, 0, 0]), torch.tensor([0.0, 3, 0, 0])
    made = merge.slerp(a, b, t=t)
    assert float(made.norm()) == pytest.approx(3.0, rel=1e-6)
    assert float(made[1]) == pytest.approx(3 * math.sin(t * math.pi / 2), abs=1e-6)


def test_nuslerp_by_rows_turns_each_row_by_its_own_angle() -> None:
    a = torch.tensor([[1.0, 0], [0, 1]])
    b = torch.tensor([[0.0, 1], [0, 2]])
    made = merge.nuslerp([a, b], flatten=False)
    half = math.sqrt(0.5)
    torch.testing.assert_close(made, torch.tensor([[half, half], [0, 1.5]]))
    torch.testing.assert_close(merge.nuslerp([a.T, b.T], flatten=False, row_wise=True), made.T)


def test_the_karcher_mean_is_where_the_weighted_pulls_balance() -> None:
    draw = torch.Generator().manual_seed(0)
    models = [torch.randn(50, generator=draw).double() for _ in range(3)]
    mean = merge.karcher(models, weight=(1.0, 2.0, 3.0), max_iter=100, tol=1e-12)
    mean = mean / mean.norm()
    pull = torch.zeros(50, dtype=torch.float64)
    for weight, model in zip((1, 2, 3), models, strict=True):
        unit = model / model.norm()
        cosine = float(unit @ mean)
        pull += weight * math.acos(cosine) / math.sqrt(1 - cosine**2) * (unit - cosine * mean)
    assert float(pull.norm()) < 1e-9


def test_opposed_directions_have_no_mean_unless_there_are_two() -> None:
    x = torch.tensor([1.0, 2.0])
    assert merge.multislerp([x, -x]).tolist() == [0, 0]
    with pytest.raises(UsageError, match="directions cancel"):
        merge.multislerp([x, -x, x, -x])


def test_model_stock_keeps_the_base_where_updates_oppose_each_other() -> None:
    base = torch.randn(10, generator=torch.Generator().manual_seed(0))
    assert torch.equal(merge.model_stock(base, [base + 1, base - 1]), base)


def test_ram_adds_unique_changes_whole_and_averages_shared_ones() -> None:
    base = torch.zeros(3)
    models = [torch.tensor([1.0, 2.0, 0.0]), torch.tensor([0.0, 4.0, 0.0])]
    assert merge.ram(base, models).tolist() == [1, 3, 0]
    # model 0 has one unique and one shared change: its unique one is scaled by 1 + r min(alpha, 1)
    assert merge.ramplus_tl(base, models, r=0.5, alpha=0.2).tolist() == pytest.approx([1.1, 3, 0])


def test_neon_is_task_arithmetic_with_a_negative_weight_and_wise_ft_lies_between() -> None:
    base, model = torch.randn(2, 20, generator=torch.Generator().manual_seed(0)).unbind()
    torch.testing.assert_close(merge.neon(base, model, w=0.5), merge.task_arithmetic(base, [model], weight=-0.5))
    torch.testing.assert_close(merge.wise_ft(base, model, alpha=0.3), merge.task_arithmetic(base, [model], weight=0.3))


def test_weights_that_cannot_be_normalised_are_refused() -> None:
    x = torch.ones(3)
    for function in (merge.linear, merge.karcher, merge.multislerp):
        with pytest.raises(UsageError, match="sum to zero"):
            function([x, 2 * x], weight=(1.0, -1.0))
    with pytest.raises(UsageError, match="weight has 3 values, but there are 2"):
        merge.linear([x, x], weight=(1.0, 1.0, 1.0))
    with pytest.raises(UsageError, match="leave"):
        merge.della(x, [x], rng=Rng(0), density=0.9, epsilon=0.2)


def test_random_numbers_are_a_function_of_their_place() -> None:
    rng = Rng(3)("x")
    whole = uniform(rng, 1, 0, 200_000)
    assert torch.equal(uniform(rng, 1, 65_530, 131_080), whole[65_530:131_080])
    assert not torch.equal(uniform(rng, 2, 0, 100), whole[:100])


def test_small_entries_of_a_row_are_dropped_more_often() -> None:
    vector = torch.arange(1.0, 1001).repeat(400, 1)
    kept = merge.della_linear(torch.zeros(400, 1000), [vector], rng=Rng(0), density=0.5, epsilon=0.4) != 0
    assert float(kept[:, :100].float().mean()) == pytest.approx(0.14, abs=0.02)
    assert float(kept[:, -100:].float().mean()) == pytest.approx(0.86, abs=0.02)

"""Each cut against its definition, written out token by token."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isoflop.decode import filters
from isoflop.decode.decoders.sample import Sample

LOGITS = st.lists(st.integers(-12, 12).map(lambda n: n / 2), min_size=1, max_size=12)
"""Few values, so that ties are common."""
MASS = st.sampled_from([0.05, 0.3, 0.5, 0.77, 0.9, 0.999, 1.0])


def law(logits: list[float]) -> list[float]:
    weights = [math.exp(x - max(logits)) for x in logits]
    return [w / sum(weights) for w in weights]


def kept(scores: torch.Tensor) -> set[int]:
    return {i for i, score in enumerate(scores[0].tolist()) if score > -math.inf}


def scores(logits: list[float]) -> torch.Tensor:
    return torch.tensor([logits], dtype=torch.float64)


def until(order: list[int], p: list[float], mass: float) -> set[int]:
    """The first of ``order`` whose probabilities reach ``mass``; rounding may decide where they just do."""
    found, total = set(), 0.0
    for i in order:
        found.add(i)
        total += p[i]
        if total >= mass:
            break
    return found


def just(p: list[float], order: list[int], mass: float) -> bool:
    """Whether sums of probabilities lie so near to ``mass`` that their rounding decides."""
    return bool(np.isclose(np.cumsum([p[i] for i in order]), mass, rtol=0, atol=1e-9).any()) and mass < 1


@given(LOGITS, st.integers(1, 14))
def test_top_k(logits: list[float], k: int) -> None:
    least = sorted(logits, reverse=True)[:k][-1]
    assert kept(filters.top_k(scores(logits), k)) == {i for i, x in enumerate(logits) if x >= least}


@given(LOGITS, MASS)
def test_top_p(logits: list[float], mass: float) -> None:
    p = law(logits)
    order = sorted(range(len(p)), key=lambda i: (-logits[i], i))
    found = kept(filters.top_p(scores(logits), mass))
    if mass == 1:
        assert sum(p[i] for i in found) > 1 - 1e-12
    elif not just(p, order, mass):
        assert found == until(order, p, mass)


@given(LOGITS, st.sampled_from([0.0, 0.01, 0.1, 0.4, 0.9, 1.0]))
def test_min_p(logits: list[float], share: float) -> None:
    p = law(logits)
    ratios = [x / max(p) for x in p]
    found = kept(filters.min_p(scores(logits), share))
    for i, ratio in enumerate(ratios):
        assert math.isclose(ratio, share, rel_tol=1e-9) or (i in found) == (ratio >= share)
    assert found


@given(LOGITS, MASS)
def test_typical(logits: list[float], mass: float) -> None:
    p = law(logits)
    entropy = -sum(x * math.log(x) for x in p)
    off = [abs(-math.log(x) - entropy) for x in p]
    order = sorted(range(len(p)), key=lambda i: (round(off[i], 9), i))
    found = kept(filters.typical(scores(logits), mass))
    mirrored = len({round(x, 9) for x in off}) < len({round(x, 9) for x in p})  # as near from above as from below
    if mass == 1:
        assert sum(p[i] for i in found) > 1 - 1e-9
    elif not just(p, order, mass) and not mirrored:
        assert found == until(order, p, mass)


@given(LOGITS, st.sets(st.integers(0, 11)), st.sampled_from([0.5, 1.0, 1.3, 4.0]))
def test_the_repetition_penalty(logits: list[float], ids: set[int], penalty: float) -> None:
    seen = torch.tensor([[i in ids for i in range(len(logits))]])
    wanted = [(x * penalty if x < 0 else x / penalty) if i in ids else x for i, x in enumerate(logits)]
    assert filters.penalised(scores(logits), seen, penalty)[0].tolist() == wanted


@pytest.mark.parametrize("cut", [filters.top_p, filters.typical])
@pytest.mark.parametrize("vocab", [63, 64, 65, 700, 5000])
def test_many_candidates_are_found_without_sorting_everything(cut: Any, vocab: int) -> None:
    """The first candidates do not suffice: flat laws, and rows of unlike flatness in one batch."""
    generator = torch.Generator().manual_seed(vocab)
    rows = torch.randn(3, vocab, generator=generator, dtype=torch.float64) * torch.tensor([[0.01], [1.0], [9.0]])
    found = cut(rows, 0.9)
    for row, mine in zip(rows, found, strict=True):
        p = torch.softmax(row, -1)
        rank = p if cut is filters.top_p else -(p.log() - (p * p.log()).sum()).abs()
        order = rank.sort(descending=True).indices.tolist()
        assert kept(mine[None]) == until(order, p.tolist(), 0.9)


def test_equal_probabilities_are_kept_by_their_ids() -> None:
    assert kept(filters.top_p(scores([1.0] * 200), 0.4999)) == set(range(100))


@settings(max_examples=50)
@given(LOGITS, st.integers(1, 6), MASS, st.sampled_from([0.0, 0.2]), MASS)
def test_cuts_follow_in_order_each_on_what_is_left(
    logits: list[float], k: int, p: float, least: float, mass: float
) -> None:
    """The ids that can be drawn are those that the cuts, one after another on renormalised laws, leave."""
    decoder = Sample(top_k=k, top_p=p, min_p=least, typical=mass)
    left = scores(logits)
    for cut, value in ((filters.top_k, k), (filters.top_p, p), (filters.min_p, least), (filters.typical, mass)):
        if value != (0.0 if cut is filters.min_p else 1.0) or cut is filters.top_k:
            left = cut(left, value)  # type: ignore[operator]
    uniform = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    drawn = set(decoder.choose(torch.tensor(logits).expand(2000, -1), uniform).tolist())
    assert drawn <= kept(left)
    shares = torch.softmax(left, -1)[0]
    assert {i for i, share in enumerate(shares.tolist()) if share > 2e-3} <= drawn

"""The measured rate of matrix products: plausible, and no trace left behind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
import torch

from isoflop.ledger import peak


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_rate_is_plausible_and_settings_are_restored(precision):
    before, state = torch.get_num_threads(), torch.random.get_rng_state()
    rate = peak.matmul_rate("cpu", precision, threads=before + 1)
    assert 1e7 < rate < 1e15
    assert torch.get_num_threads() == before
    assert torch.equal(torch.random.get_rng_state(), state)


def timed(monkeypatch: pytest.MonkeyPatch, seconds: Callable[[int, int], float]) -> list[int]:
    """Let product number n of a size take ``seconds(size, n)`` on a clock of its own; the sizes tried, in order."""
    tried: list[int] = []
    clock = [0.0]

    def product(a: torch.Tensor, out: torch.Tensor) -> float:
        tried.append(len(a))
        clock[0] += seconds(len(a), tried.count(len(a)))
        return seconds(len(a), tried.count(len(a)))

    monkeypatch.setattr(peak, "_seconds", product)
    monkeypatch.setattr(peak.time, "perf_counter", lambda: clock[0])
    return tried


def test_the_rate_is_the_best_of_what_was_timed(monkeypatch):
    timed(monkeypatch, lambda size, n: 0.1 if n == 4 else 0.2)
    assert peak.matmul_rate() == 2 * peak.SIZES[0] ** 3 / 0.1  # the next size would take too long


def test_small_products_fill_their_share_and_the_limit_stops_the_sizes(monkeypatch):
    tried = timed(monkeypatch, lambda size, n: 0.002 * (size / 256) ** 3)
    peak.matmul_rate()
    assert Counter(tried) == {256: 25, 512: peak.CALLS}

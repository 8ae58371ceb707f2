"""The measured rate of matrix products: plausible, and no trace left behind."""

from __future__ import annotations

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


def test_the_rate_is_the_best_of_what_was_timed(monkeypatch):
    seconds = iter([0.5, 0.01, 0.2, 0.2])
    monkeypatch.setattr(peak, "_seconds", lambda a, out: next(seconds))
    assert peak.matmul_rate() == 2 * peak.SIZES[0] ** 3 / 0.01  # the next size would take too long


def test_the_limit_stops_the_sizes(monkeypatch):
    tried = []
    monkeypatch.setattr(peak, "_seconds", lambda a, out: tried.append(len(a)) or 0.002 * (len(a) / 256) ** 3)
    monkeypatch.setattr(peak.time, "perf_counter", lambda: 0.0)
    peak.matmul_rate()
    assert sorted(set(tried)) == [256, 512]

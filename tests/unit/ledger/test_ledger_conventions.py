"""Foreign conventions: by hand, and against the figures that nanochat reports of itself."""

from __future__ import annotations

import json

import pytest

from isoflop.ledger import conventions, formulas


def test_by_hand():
    assert conventions.six_nd(10**9, 2 * 10**10) == 12 * 10**19
    assert conventions.palm(parameters=100, layers=2, width=8, length=16, tokens=3) == (600 + 12 * 2 * 8 * 16) * 3
    full = conventions.palm(100, 2, 8, 16, 3) - conventions.six_nd(100, 3)
    half = conventions.causal_half(100, 2, 8, 16, 3) - conventions.six_nd(100, 3)
    assert full == 2 * half
    assert conventions.nanochat(1000, width=8, windows=[16, 64], length=32) == 6000 + 12 * 8 * (16 + 32)
    assert conventions.nanochat_prefill(1000, width=8, layers=2, length=3) == 6000 + 4 * 8 * 2 * 6


def test_a_transformers_exact_count_lies_between_causal_half_and_palm():
    layers, width, heads, length, d_ff = 3, 32, 4, 64, 96
    work = layers * formulas.attention(1, heads, width // heads, length)
    for d_in, d_out in [(width, 4 * width), (width, 2 * d_ff), (d_ff, width)]:
        work = work + layers * formulas.linear(length, d_in, d_out)
    parameters = layers * (4 * width * width + 3 * width * d_ff)
    args = (parameters, layers, width, length, length)
    assert conventions.six_nd(parameters, length) < conventions.causal_half(*args) < work.total.model
    assert work.total.model - conventions.causal_half(*args) == 6 * layers * width * length  # the diagonal's other half
    assert work.total.hardware == conventions.palm(*args)


def test_nanochat_reports_what_its_convention_gives(shared):
    path = shared / "data" / "anchors" / "nanochat_flops.json"
    if not path.exists():
        pytest.skip(f"{path.name} not found")
    rows = json.loads(path.read_text())
    assert len(rows) >= 20
    for row in rows:
        length, depth, pattern = row["seq"], row["depth"], row["window_pattern"]
        windows = [length if pattern[i % len(pattern)] == "L" else length // 4 for i in range(depth - 1)] + [length]
        matmul, width = row["num_matmul_params"], row["n_embd"]
        assert conventions.nanochat(matmul, width, windows, length) == row["train_flops_per_token"]
        assert conventions.nanochat_prefill(matmul, width, depth, 512) == row["prefill_flops_512"]

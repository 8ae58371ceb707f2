"""The rule of thumb for training FLOPs, by hand."""

from __future__ import annotations

import numpy as np

from isoflop.ledger.conventions import six_nd


def test_by_hand():
    assert six_nd(10**9, 2 * 10**10) == 12 * 10**19
    assert six_nd(np.array([1.0, 2.0]), np.array([10.0, 10.0])).tolist() == [60.0, 120.0]

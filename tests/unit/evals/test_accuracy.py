"""Accuracy counts the likeliest tokens that are right, and its error is that of independent windows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from isoflop.core.contracts import Guess, Subject, TokenBatch
from isoflop.core.cost import Cost
from isoflop.core.rng import Rng
from isoflop.data.loader import HeldOutText
from isoflop.evals.metrics.accuracy import Accuracy


class Always:
    """An objective that predicts one id, whatever came before."""

    def __init__(self, token: int) -> None:
        self.token = token

    def predict(self, batch: TokenBatch) -> Guess:
        return Guess(torch.full_like(batch.targets, self.token), {"evaluation": Cost(3, 3)})


def text(tokens: list[int]) -> HeldOutText:
    return HeldOutText(np.array([0, *tokens]), np.ones(4, np.int64), len(tokens), 1)


def measure(data: Mapping[str, HeldOutText], batch: int = 2, token: int = 1) -> Any:
    subject = Subject(None, Always(token), None)  # type: ignore[arg-type]
    return Accuracy(4, batch, "cpu").measure(subject, data, Rng(0))


def test_it_is_the_share_of_tokens_that_are_right() -> None:
    found = measure({"a": text([1, 2, 1, 1, 3, 1, 2]), "b": text([1, 1])})
    assert (found.value, found.n) == (6 / 9, 9)
    assert [(d.value, d.n) for d in found.domains.values()] == [(4 / 7, 7), (1.0, 2)]
    assert not found.bound
    assert found.cost == Cost(6, 6)


def test_what_fills_the_last_window_is_no_hit() -> None:
    assert measure({"a": text([1, 1, 1, 1, 1])}, token=0).value == 0


@pytest.mark.parametrize("batch", [1, 2, 64])
def test_the_error_is_that_of_windows_whatever_the_batch(batch: int) -> None:
    tokens = np.random.default_rng(0).integers(1, 4, 400).tolist()
    found = measure({"a": text(tokens)}, batch)
    hits = np.array(tokens).reshape(100, 4) == 1
    assert found.value == hits.mean()
    assert found.stderr == pytest.approx(hits.mean(1).std(ddof=1) / math.sqrt(100))

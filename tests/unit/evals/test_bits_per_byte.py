"""Bits per byte: what a model's code for the held-out text costs, over the bytes that the text really has."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from isoflop.core.contracts import Loss, Subject
from isoflop.core.cost import Cost
from isoflop.core.errors import DataError
from isoflop.core.rng import Rng
from isoflop.data.loader import HeldOutText
from isoflop.evals.metrics.bits_per_byte import BitsPerByte
from isoflop.objectives.losses.next_token import NextToken

VOCABULARY = 4


class Uniform:
    """A model that gives every token the same probability."""

    head = torch.zeros(VOCABULARY, 2)

    def hidden(self, inputs: torch.Tensor, pattern: Any = None) -> torch.Tensor:
        return torch.ones(*inputs.shape, 2)

    def flops(self, batch: int, length: int) -> Any:
        return SimpleNamespace(forward=Cost())


def text(count: int, text_bytes: int, byte_lengths: tuple[int, ...] = (0, 1, 1, 1)) -> HeldOutText:
    tokens = np.array([0, *(1 + np.arange(count - 1) % 3), 0])
    return HeldOutText(tokens, np.array(byte_lengths), text_bytes, 1)


def measure(*heldout: HeldOutText) -> Any:
    data = {f"domain {number}": each for number, each in enumerate(heldout)}
    subject = Subject(Uniform(), NextToken(Uniform()), None)  # type: ignore[arg-type]
    return BitsPerByte(4, 2, "cpu").measure(subject, data, Rng(0))


def test_it_is_bits_over_the_bytes_of_the_text() -> None:
    found = measure(text(30, 29), text(12, 50))
    assert found.domains["domain 0"].value == pytest.approx(30 * 2 / 29)
    assert found.value == pytest.approx((30 + 12) * math.log2(VOCABULARY) / (29 + 50))
    assert found.n == 79


def test_byte_lengths_that_only_nearly_fit_change_nothing_but_the_error() -> None:
    """Tokenizers that are not byte-level know their tokens' lengths but nearly: the text's own bytes count."""
    exact, near = measure(text(30, 29)), measure(text(30, 29, (0, 2, 1, 1)))
    assert near.value == exact.value
    assert near.n == exact.n == near.domains["domain 0"].n


def test_no_held_out_text_is_refused() -> None:
    with pytest.raises(DataError, match="no held-out text"):
        measure()


def test_a_single_batch_has_no_standard_error() -> None:
    one, many = measure(text(6, 5)), measure(text(60, 59))
    assert one.stderr is None
    assert many.stderr is not None
    assert measure(text(6, 5), text(60, 59)).stderr is None


class Windows:
    """Held-out text in windows of one token each: (bits, bytes) of each are given. Its size may be more than theirs."""

    def __init__(self, windows: Sequence[tuple[float, int]], text_bytes: int) -> None:
        self.given, self.text_bytes = windows, text_bytes

    def windows(self, length: int, batch: int) -> Iterator[Any]:
        for bits, size in self.given:
            window: Any = SimpleNamespace(bits=bits, text_bytes=size)
            window.to = window.drawing = lambda _, window=window: window
            yield window


class Told:
    """An objective that says of each window what it was told."""

    bound = False

    def nll(self, batch: Any) -> Loss:
        return Loss(torch.tensor(batch.bits * math.log(2), dtype=torch.float64), spent={"evaluation": Cost(flops=5)})


def told(**domains: Windows) -> Any:
    subject = Subject(None, Told(), None)  # type: ignore[arg-type]
    return BitsPerByte(4, 2, "cpu").measure(subject, domains, Rng(0))  # type: ignore[arg-type]


def test_the_standard_error_is_that_of_a_ratio_by_hand() -> None:
    """Bits 6, 2, 4 over 2, 1, 3 bytes: the ratio is 2 bits a byte, the residuals are 2, 0, -2, n / (n - 1) is 3 / 2."""
    found = told(text=Windows([(6, 2), (2, 1), (4, 3)], 6))
    assert found.value == pytest.approx(2)
    assert found.stderr == pytest.approx(math.sqrt((4 + 0 + 4) * 3 / 2) / 6)
    assert found.cost == Cost(flops=15)


def test_the_standard_error_is_over_the_bytes_that_the_text_really_has() -> None:
    near = told(text=Windows([(6, 2), (2, 1), (4, 3)], 10))
    assert near.value == pytest.approx(12 / 10)
    assert near.stderr == pytest.approx(math.sqrt(12) / 10)


def test_the_mean_over_domains_has_the_error_of_independent_parts_of_unlike_size() -> None:
    found = told(small=Windows([(6, 2), (2, 1), (4, 3)], 6), large=Windows([(10, 20), (26, 16)], 36))
    first, second = (found.domains[name].stderr for name in ("small", "large"))
    assert second == pytest.approx(math.sqrt(2 * 10**2 * 2) / 36)
    assert found.value == pytest.approx((12 + 36) / 42)
    assert found.stderr == pytest.approx(math.sqrt((6 * first) ** 2 + (36 * second) ** 2) / 42)


def test_the_standard_error_is_the_spread_over_texts() -> None:
    """Windows of unequal size whose rate of bits differs: drawn 200 times, values spread as their errors say."""
    draw = np.random.default_rng(0)
    found = []
    for _ in range(200):
        sizes = draw.integers(5, 60, 30)
        bits = sizes * draw.normal(2.0, 0.4, 30)
        found.append(told(text=Windows(list(zip(bits.tolist(), sizes.tolist(), strict=True)), int(sizes.sum()))))
    assert np.std([each.value for each in found]) == pytest.approx(np.mean([each.stderr for each in found]), rel=0.15)

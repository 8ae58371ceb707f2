"""Bits per byte: what a model's code for the held-out text costs, over the bytes that the text really has."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from isoflop.core.contracts import Subject
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

    def hidden(self, inputs: torch.Tensor) -> torch.Tensor:
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
    assert (found.n, found.unit) == (79, "bits per byte")


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
    assert "+-" not in str(one)
    assert many.stderr is not None
    assert measure(text(6, 5), text(60, 59)).stderr is None

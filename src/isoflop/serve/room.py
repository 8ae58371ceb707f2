"""How much a model may be asked at once, and what it has done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

_LEAST = 64
"""Tokens of a row that room is made for at least."""


@dataclass(frozen=True)
class Room:
    """How much may be going on at once.

    Args:
        rows: sequences that grow together.
        context: tokens of one, its prompt included.
        tokens: rows times the longest reservation among them, which is what the cache takes memory for.
        waiting: sequences that wait for a row.

    Example:
        >>> Room(rows=8, context=512, tokens=4096).shape([100, 20])
        (2, 128)
    """

    rows: int = 16
    context: int = 1024
    tokens: int = 16 * 1024
    waiting: int = 256

    def shape(self, reserves: Sequence[int], rows: int = 0, capacity: int = 0) -> tuple[int, int]:
        """Rows and tokens of each to make room for, or more than ``tokens`` altogether where it does not fit.

        What there is stays as long as it will do: to make room anew copies all that is kept.

        Args:
            reserves: tokens of each sequence.
            rows: that there is room for already.
            capacity: tokens of each of them.
        """
        least, longest = len(reserves), max(reserves)
        if least <= rows and longest <= capacity and rows * capacity <= self.tokens:
            return rows, capacity
        wanted = min(self.context, max(_LEAST, _power(longest), capacity))
        if least * wanted > self.tokens:
            wanted = longest
        return max(least, min(self.rows, max(_power(least), rows), self.tokens // wanted)), wanted


def _power(n: int) -> int:
    """The smallest power of two that is at least n."""
    return 1 << max(0, n - 1).bit_length()


@dataclass
class Tally:
    """What an engine has done since it began.

    Args:
        prompt_tokens: that the model read.
        new_tokens: that it wrote.
        flops: model FLOPs of both.
        steps: batches computed.
        seconds: spent on them.
        admitted: sequences that were given a row.
        ended: sequences by how they ended.
        first_seconds: from a job's making to its first new token, summed.
        first_count: jobs in that sum.

    Example:
        >>> Tally().ended["stop"]
        0
    """

    prompt_tokens: int = 0
    new_tokens: int = 0
    flops: int = 0
    steps: int = 0
    seconds: float = 0.0
    admitted: int = 0
    ended: Counter[str] = field(default_factory=Counter)
    first_seconds: float = 0.0
    first_count: int = 0


def flops_of(model: Any) -> Callable[[int, int], int]:
    """Model FLOPs of reading n tokens one after the other, of which only some meet the head.

    Args:
        model: has ``flops`` and ``head``, as ``core.contracts.Model``.

    Example, with ``model`` a Transformer of 257 tokens:
        >>> count = flops_of(model)
        >>> count(8, 8) - count(8, 1) == 7 * 2 * 257 * 32, count(8, 8) == model.flops(1, 8).forward.flops
        (True, True)
    """
    head = 2 * model.head.numel()

    def count(tokens: int, projected: int) -> int:
        return model.flops(1, tokens).forward.flops - (tokens - projected) * head if tokens else 0

    return count

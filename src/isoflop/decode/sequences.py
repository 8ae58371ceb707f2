"""Sequences of unequal lengths that one model continues, each of which may be cut short: what speculation rests on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..core.cost import Work
from ..models.slots import Piece, Slots


class Sequences:
    """Rows that a model continues, all together where each of its mixers can, otherwise one by one.

    Args:
        model: Cacheable; best one that is laid out (``Preparable.prepared``).
        rows: how many, all empty at first.

    Example, with ``model`` a Transformer of 257 tokens:
        >>> held = Sequences(model.prepared(2), rows=2)
        >>> [logits.shape for logits in held.step([Piece(0, [1, 2, 3], 2), Piece(1, [4], 1)])]
        [torch.Size([2, 257]), torch.Size([1, 257])]
        >>> held.truncate(0, 1)
        >>> held.lengths
        [1, 1]
    """

    def __init__(self, model: Any, rows: int) -> None:
        self.model, self.device, self._rows = model, model.head.device, rows
        blocks = getattr(getattr(model, "model", None), "blocks", ())
        self._together: Slots | None = None
        if blocks and all(hasattr(block.mixer, "make_slots") for block in blocks):
            slots = model.make_slots()
            if slots.cuts:
                self._together = slots
                slots.reserve(rows, 16)  # more as it is needed
                for _ in range(rows):
                    slots.join()
        self._apart = [] if self._together is not None else [model.make_cache(1, 1) for _ in range(rows)]

    @property
    def lengths(self) -> list[int]:
        """Tokens that each row holds."""
        return list(self._together.lengths) if self._together is not None else [cache.length for cache in self._apart]

    def step(self, pieces: Sequence[Piece], by: Any = None) -> list[Tensor]:
        """The logits (wanted, vocab) of each piece; its row grows by the piece's tokens.

        Args:
            pieces: what is added, each row at most once.
            by: a model with the same mixers that computes instead, and leaves its keys and values behind; None: the
                model itself.
        """
        if self._together is None:
            return [self._alone(piece, by) for piece in pieces]
        slots = self._together
        needed = max(slots.lengths[piece.row] + len(piece.tokens) for piece in pieces)
        if needed > slots.capacity:
            slots.reserve(self._rows, max(needed, 2 * slots.capacity))
        with _lent(slots, by):
            return slots.step(pieces)

    def _alone(self, piece: Piece, by: Any) -> Tensor:
        cache = self._apart[piece.row]
        tokens = torch.tensor([list(piece.tokens)]).to(self.device)
        with _lent(cache, by):
            logits: Tensor = self.model.step(tokens, cache, piece.wanted)[0]
        return logits

    def truncate(self, row: int, length: int) -> None:
        """A row forgets all but its first ``length`` tokens."""
        if self._together is not None:
            self._together.truncate(row, length)
        else:
            self._apart[row].truncate(length)


@contextmanager
def _lent(memory: Any, by: Any) -> Iterator[None]:
    """While entered, another model's blocks compute with the rows of a memory; None: its own do."""
    if by is None:
        yield
        return
    own, memory.products = memory.products, by.products
    try:
        yield
    finally:
        memory.products = own


class PassFlops:
    """FLOPs that a whole forward pass of a model over n tokens needs, most often without pricing it.

    Without windows it is a polynomial of degree 2 in n, which is checked where twice as many tokens are priced.

    Args:
        model: has ``flops(batch, length)``, and its ``head``.

    Example, with ``model`` a Transformer of 257 tokens:
        >>> PassFlops(model)(16) == model.flops(1, 16).forward.flops
        True
    """

    def __init__(self, model: Any) -> None:
        self._model, self.head = model, 2 * int(model.head.numel())
        self._known: dict[int, int] = {0: 0}
        self._sure = 0

    def __call__(self, length: int) -> int:
        if length not in self._known and length > self._sure:
            far = 2 * length
            if self._guess(far) == self._priced(far):
                self._sure = far
        return self._guess(length) if 0 < length <= self._sure else self._priced(length)

    def _guess(self, n: int) -> int:
        a, b, c = self._priced(1), self._priced(2), self._priced(3)
        return a + (n - 1) * (b - a) + (n - 1) * (n - 2) // 2 * (c - 2 * b + a)

    def _priced(self, length: int) -> int:
        if length not in self._known:
            work: Work = self._model.flops(1, length)
            self._known[length] = work.forward.flops
        return self._known[length]


class StepFlops:
    """FLOPs that the mathematics of a causal model's cached steps needs, exactly.

    n tokens behind p others need what n + p tokens need in one pass less what p tokens do, the head counted for those
    whose logits are wanted.

    Args:
        whole: of whole passes.

    Attributes:
        total: of all that was counted.

    Example, with ``model`` a Transformer of 257 tokens:
        >>> flops = StepFlops(PassFlops(model))
        >>> flops.add(past=0, new=16, wanted=16)
        >>> flops.total == model.flops(1, 16).forward.flops
        True
    """

    def __init__(self, whole: PassFlops) -> None:
        self._whole, self.total = whole, 0

    def add(self, past: int, new: int, wanted: int) -> None:
        """Count a step of ``new`` tokens behind ``past`` others."""
        self.total += self._whole(past + new) - self._whole(past) - (new - wanted) * self._whole.head

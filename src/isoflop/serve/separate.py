"""Any model with a cache behind the scheduler: a cache for each sequence, and a step for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..models.slots import Piece


class Separate:
    """What ``models.slots.Slots`` is, for a Cacheable model that cannot continue several sequences in one step.

    Args:
        model: Cacheable.

    Example, with ``model`` a Transformer of 257 tokens:
        >>> batch = Separate(model)
        >>> batch.join()
        0
        >>> [logits.shape for logits in batch.step([Piece(0, [1, 2, 3], wanted=1)])]
        [torch.Size([1, 257])]
    """

    def __init__(self, model: Any) -> None:
        self._model, self._caches, self._capacity = model, list[Any](), 1

    def reserve(self, rows: int, capacity: int) -> None:
        """How many tokens the next sequence may grow to."""
        self._capacity = max(1, capacity)

    def join(self) -> int:
        """The row of one more sequence."""
        self._caches.append(self._model.make_cache(1, self._capacity))
        return len(self._caches) - 1

    def leave(self, row: int) -> None:
        """A sequence goes; the last one takes its row."""
        self._caches[row] = self._caches[-1]
        self._caches.pop()

    def step(self, pieces: Sequence[Piece]) -> list[Tensor]:
        """The logits (wanted, vocab) of each piece; its sequence grows by the piece's tokens."""
        device = self._model.head.device
        return [
            self._model.step(torch.tensor([list(piece.tokens)]).to(device), self._caches[piece.row], piece.wanted)[0]
            for piece in pieces
        ]

"""What a gated delta rule keeps of the tokens so far: memories of fixed size, and how they came to be of late."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from ..core.errors import UsageError
from .cache import Padding
from .slots import SlotMemory

Advance = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Of inputs (batch, before + n, channels), the first of which were seen, and memories (batch, heads, d_k, d_v) before
the n: what the n positions find, (batch, n, ...), and the memories behind them."""

KEPT = 64
"""Tokens that can be taken back at least."""


class DeltaState:
    """Memories of the tokens seen so far, of a size that does not grow with them.

    So that the last tokens can be taken back, inputs of at most 2 ``KEPT`` of them stay, and memories at one or two
    places among these, from which the way to any later place is gone again.

    Args:
        memory: (batch, heads, d_k, d_v), those of no token: zeros.
        before: inputs before a position that it needs beside its own.
        channels: numbers of an input.
        advance: goes on from memories by inputs.

    Attributes:
        length: tokens seen, padding included.

    Example, of sums of all inputs:
        >>> advance = lambda x, memory: (x, memory + x.sum(1)[:, None, None])
        >>> state = DeltaState(torch.zeros(1, 1, 1, 1), 0, 1, advance)
        >>> for _ in range(100):
        ...     found = state.extend(torch.ones(1, 1, 1))
        >>> state.truncate(70), state.length, state.memory.item()
        (None, 70, 70.0)
    """

    def __init__(self, memory: Tensor, before: int, channels: int, advance: Advance) -> None:
        self.memory, self.length, self._before, self._advance = memory, 0, before, advance
        self._inputs = memory.new_zeros(len(memory), before + 2 * KEPT, channels)
        self._first, self._marks = 0, [(0, memory)]

    def extend(self, x: Tensor, padding: Padding | None = None) -> Tensor:
        """Add the inputs (batch, n, channels) of the tokens that follow, and return what they find.

        Args:
            x: of the next tokens.
            padding: where rows begin; None: all at the first token.
        """
        x = x if padding is None else padding.blanked(x, self.length)
        found = []
        if (most := x.shape[1] - KEPT) > 0:  # these are not to be taken back: at once
            seen = torch.cat((self._last(), x[:, :most]), 1)
            found.append(self._go(seen, most))
            self._inputs[:, : self._before] = seen[:, most:]
            self._first, self._marks, x = self.length, [(self.length, self.memory)], x[:, most:]
        while new := x.shape[1]:
            held = self._mark()
            new = min(new, KEPT - held % KEPT)
            self._inputs[:, self._before + held : self._before + held + new] = x[:, :new]
            found.append(self._go(self._inputs[:, held : self._before + held + new], new))
            x = x[:, new:]
        return found[0] if len(found) == 1 else torch.cat(found, 1)

    def _go(self, inputs: Tensor, new: int) -> Tensor:
        found, self.memory = self._advance(inputs, self.memory)
        self.length += new
        return found

    def _last(self) -> Tensor:
        """The inputs before the next position that it needs."""
        held = self.length - self._first
        return self._inputs[:, held : self._before + held]

    def _mark(self) -> int:
        """How many inputs are held. ``KEPT`` of them behind the last mark there is a new one, and what lies before the
        other is dropped."""
        if self.length - self._marks[-1][0] == KEPT:
            self._marks = [*self._marks[-1:], (self.length, self.memory)]
            if (gone := self._marks[0][0] - self._first) > 0:
                self._inputs[:, :-gone] = self._inputs[:, gone:].clone()
                self._first += gone
        return self.length - self._first

    def truncate(self, length: int) -> None:
        """Forget all but the first ``length`` tokens.

        Raises:
            UsageError: they are too far back.
        """
        self.reach_back(length)
        if length >= self.length:
            return
        if length == 0:
            self.memory = torch.zeros_like(self.memory)
            self._inputs.zero_()
            self.length, self._first, self._marks = 0, 0, [(0, self.memory)]
            return
        self._marks = [mark for mark in self._marks if mark[0] <= length]
        (self.length, self.memory), start = self._marks[-1], self._before
        again = self._inputs[:, start + self.length - self._first : start + length - self._first].clone()
        with torch.no_grad():
            if again.shape[1]:
                self.extend(again)

    def reach_back(self, length: int) -> None:
        """UsageError unless it can forget all but the first ``length`` tokens."""
        if 0 < length < self._first:
            raise UsageError(
                f"a memory of fixed size has no way back to the first {length} of {self.length} tokens, but to "
                f"{self._first} and more of them",
                where="model.mixer",
                fix=f"take back {KEPT} tokens at most, or begin a cache anew",
            )

    def select(self, rows: Tensor) -> None:
        """Keep these rows of the batch, in this order; a row may be taken several times."""
        rows = rows.to(self.memory.device)
        self._inputs, self.memory = self._inputs[rows], self.memory[rows]
        self._marks = [(place, memory[rows]) for place, memory in self._marks]


class DeltaSlots(SlotMemory):
    """The same for sequences that come and go; none can be taken back.

    Args:
        memory: (0, heads, d_k, d_v), of no sequence.
        before: inputs before a position that it needs beside its own.
        channels: numbers of an input.
        advance: goes on from memories by inputs.

    Example:
        >>> slots = DeltaSlots(torch.zeros(0, 2, 8, 8), 3, 48, lambda x, memory: (x, memory))
        >>> slots.resize(3, 16, [])
        >>> slots.memory.shape
        torch.Size([3, 2, 8, 8])
    """

    cuts: ClassVar[bool] = False

    def __init__(self, memory: Tensor, before: int, channels: int, advance: Advance) -> None:
        self.memory, self._advance = memory, advance
        self._inputs = memory.new_zeros(0, before, channels)

    @property
    def device(self) -> torch.device:
        """Where memories lie."""
        return self.memory.device

    def extend(self, x: Tensor, padding: Padding | None = None) -> Tensor:
        """Add the step's inputs (1, n, channels), and return what they find."""
        found: Tensor | None = None
        for rows, tokens, _ in self.plan.groups:
            inputs = torch.cat((self._inputs[rows], x[0, tokens]), 1)
            mine, self.memory[rows] = self._advance(inputs, self.memory[rows])
            self._inputs[rows] = inputs[:, inputs.shape[1] - self._inputs.shape[1] :]
            found = mine.new_empty(1, x.shape[1], *mine.shape[2:]) if found is None else found
            found[0, tokens] = mine
        assert found is not None
        return found

    def move(self, source: int, target: int, length: int) -> None:
        """Row ``source`` takes the place of row ``target``."""
        for held in (self.memory, self._inputs):
            held[target] = held[source]
            held[source] = 0

    def resize(self, rows: int, capacity: int, lengths: Sequence[int]) -> None:
        """Room for so many rows; the first ones stay."""
        kept, more = len(lengths), rows - len(lengths)
        self.memory, self._inputs = (
            F.pad(held[:kept], (0, 0) * (held.ndim - 1) + (0, more)) for held in (self.memory, self._inputs)
        )

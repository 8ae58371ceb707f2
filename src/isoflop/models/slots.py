"""Sequences of different lengths that one model continues together, each of which may come or go between two steps.

The tokens of a step lie in one row, those of a sequence side by side: so products see all of them at once, whether a
sequence adds one token or its whole prompt. Attention alone tells sequences apart: those that add one token are one
batch, each longer piece is attended to by itself.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..core.contracts import Pattern
from ..core.errors import UsageError
from .cache import Attends, HeldKeyValues, Padding, fused, pattern_rows, reach


class Piece(NamedTuple):
    """What a step adds to one sequence.

    Example:
        >>> Piece(row=0, tokens=[5, 6, 7], wanted=1).tokens
        [5, 6, 7]
    """

    row: int
    """Which sequence."""
    tokens: Sequence[int]
    """The ids that follow what it holds; at least one."""
    wanted: int
    """Of so many of them, the last ones, the logits are wanted."""


@dataclass(frozen=True)
class _Longer:
    """Pieces of several tokens, of which each has as many.

    Args:
        rows: their rows.
        tokens: places of their tokens among all of the step, int64 (rows, tokens).
        totals: tokens that each row holds then.
    """

    rows: slice | Tensor
    tokens: Tensor
    totals: tuple[int, ...]

    @classmethod
    def of(
        cls, pieces: Sequence[Piece], firsts: Sequence[int], starts: Sequence[int], new: int, device: torch.device
    ) -> _Longer:
        """Those of ``new`` tokens; ``firsts`` and ``starts`` say where each piece's tokens and its text begin."""
        mine = [i for i, piece in enumerate(pieces) if len(piece.tokens) == new]
        rows = [pieces[i].row for i in mine]
        tokens = torch.tensor([range(firsts[i], firsts[i] + new) for i in mine], device=device)
        beside = rows == list(range(rows[0], rows[0] + len(rows)))  # then nothing is copied
        chosen = slice(rows[0], rows[0] + len(rows)) if beside else torch.tensor(rows, device=device)
        return cls(chosen, tokens, tuple(starts[i] + new for i in mine))

    @property
    def new(self) -> int:
        """Tokens of each piece."""
        return self.tokens.shape[1]

    @property
    def total(self) -> int:
        """Keys that the longest row has."""
        return max(self.totals)


class SameLength(NamedTuple):
    """Pieces of equal length.

    Example:
        >>> plan = StepPlan([Piece(0, [5], 1), Piece(1, [6, 7], 1)], [3, 0], torch.device("cpu"))
        >>> [(group.tokens.tolist(), group.starts) for group in plan.groups]
        [([[0]], [3]), ([[1, 2]], [0])]
    """

    rows: slice | Tensor
    """Which rows they belong to."""
    tokens: Tensor
    """Places of their tokens among all of the step, int64 (rows, tokens)."""
    starts: Sequence[int]
    """Tokens that each row holds already."""


class StepPlan:
    """Where the tokens of one step go, and whom they see. Layers of a step share it.

    Args:
        pieces: what is added, each row at most once.
        lengths: tokens that each row holds already.
        device: where tensors are wanted.

    Attributes:
        rows: row of each token, int64 (n,).
        places: position of each token, int64 (n,).

    Example:
        >>> plan = StepPlan([Piece(0, [5], 1), Piece(1, [6, 7], 1)], [3, 0], torch.device("cpu"))
        >>> plan.rows.tolist(), plan.places.tolist()
        ([0, 1, 1], [3, 0, 1])
    """

    def __init__(self, pieces: Sequence[Piece], lengths: Sequence[int], device: torch.device) -> None:
        counts = [len(piece.tokens) for piece in pieces]
        starts = [lengths[piece.row] for piece in pieces]
        firsts = np.cumsum([0, *counts]).tolist()
        self.rows = torch.from_numpy(np.repeat([piece.row for piece in pieces], counts)).to(device)
        places = np.concatenate([np.arange(start, start + n) for start, n in zip(starts, counts, strict=True)])
        self.places = torch.from_numpy(places).to(device)
        short = [i for i, count in enumerate(counts) if count == 1]
        self.single_rows = [pieces[i].row for i in short]
        self._starts = [starts[i] for i in short]
        self.width = max(self.single_rows, default=-1) + 1
        self.alone = len(short) == len(pieces) and self.single_rows == list(range(self.width))
        self.single_tokens = torch.tensor([firsts[i] for i in short], device=device)
        self.single_index = torch.tensor(self.single_rows, device=device)
        longer = sorted({n for n in counts if n > 1})
        self.longer = [_Longer.of(pieces, firsts, starts, n, device) for n in longer]
        self.device = device
        self._known: dict[Any, tuple[int, Tensor | None]] = {}

    @functools.cached_property
    def groups(self) -> list[SameLength]:
        """The pieces, those of equal length together."""
        found = [
            SameLength(alike.rows, alike.tokens, [total - alike.new for total in alike.totals]) for alike in self.longer
        ]
        if not self.single_rows:
            return found
        rows = slice(self.width) if self.alone else self.single_index
        return [SameLength(rows, self.single_tokens[:, None], self._starts), *found]

    @property
    def total(self) -> int:
        """Keys that the longest of those sequences has which add one token."""
        return max(self._starts) + 1

    def singles(self, pattern: Pattern | None) -> tuple[int, Tensor | None]:
        """The first key that any single token sees, and who sees whom from there to ``total``; None: all see all.

        bool (width, 1, 1, keys); rows that add none see the first key, so that nothing in them is undefined.
        """
        if pattern not in self._known:
            self._known[pattern] = self._singles(pattern)
        return self._known[pattern]

    def _singles(self, pattern: Pattern | None) -> tuple[int, Tensor | None]:
        if pattern is None and self.alone and len(set(self._starts)) == 1:
            return 0, None
        seen = np.zeros((self.width, self.total), bool)
        seen[:, 0] = True
        if pattern is None:
            seen[self.single_rows] = np.arange(self.total) <= np.array(self._starts)[:, None]
        else:
            for row, start in zip(self.single_rows, self._starts, strict=True):
                seen[row, : start + 1] = pattern_rows(pattern, 1, start + 1)
        first, rows = reach(seen)
        return first, None if rows is None else torch.from_numpy(rows).to(self.device)[:, None, None]

    def piece(self, pattern: Pattern | None, alike: _Longer) -> tuple[int, Tensor | None]:
        """The same for pieces of equal length: bool (rows, 1, tokens, keys)."""
        key = pattern, alike.new
        if key not in self._known:
            self._known[key] = self._piece(pattern, alike)
        return self._known[key]

    def _piece(self, pattern: Pattern | None, alike: _Longer) -> tuple[int, Tensor | None]:
        seen = np.zeros((len(alike.totals), alike.new, alike.total), bool)
        for mine, total in zip(seen, alike.totals, strict=True):
            mine[:, :total] = pattern_rows(pattern, alike.new, total)
        first, rows = reach(seen.reshape(-1, alike.total))
        if rows is None:
            return first, None
        return first, torch.from_numpy(rows).view(len(seen), 1, alike.new, -1).to(self.device)


class SlotMemory(ABC):
    """What a mixer keeps of sequences that come and go, in rows 0, 1, 2 ...: what no sequence holds is zero.

    Attributes:
        plan: of the present step.

    Class attributes:
        cuts: whether a row can forget its last tokens.
    """

    cuts: ClassVar[bool] = True
    plan: StepPlan

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where it lies."""

    @abstractmethod
    def move(self, source: int, target: int, length: int) -> None:
        """Row ``source``, of which ``length`` tokens are filled, takes the place of row ``target``."""

    @abstractmethod
    def resize(self, rows: int, capacity: int, lengths: Sequence[int]) -> None:
        """Room for so many rows and tokens; the first rows keep their ``lengths`` tokens."""


class SlotKeyValues(HeldKeyValues, SlotMemory):
    """Those of sequences that come and go, each row filled in order.

    What no sequence holds is zero: never undefined, and never another sequence's.

    Args:
        heads: key-value heads.
        head_dim: numbers of a head.
        dtype: of products.
        device: where to keep them.

    Attributes:
        plan: of the present step.

    Example:
        >>> layer = SlotKeyValues(2, 8, torch.float32, torch.device("cpu"))
        >>> layer.resize(3, 16, [])
        >>> layer.capacity
        16
    """

    def __init__(self, heads: int, head_dim: int, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__(0, heads, 0, head_dim, dtype, device)

    def places(self, new: int) -> tuple[slice | Tensor, int]:
        """Positions of the step's tokens, (1, n), and a number above the largest of them."""
        return self.plan.places[None], self.capacity

    def attend(
        self,
        q: Tensor,
        both: Tensor,
        pattern: Pattern | None = None,
        padding: Padding | None = None,
        scale: float | None = None,
        kernel: Attends | None = None,
    ) -> Tensor:
        """Add the step's keys and values, and let each token look at those of its own sequence that it may see.

        Args:
            q: (1, heads, n, head_dim).
            both: (1, 2 kv_heads, n, head_dim), keys before values.
            pattern: what a position sees at most, besides itself and those before it.
            padding: none, as rows begin at their first token.
            scale: factor on the scores, by default 1 / sqrt(head_dim).
            kernel: what attends, with a scale of its own; by default torch's.
        """
        plan, kernel = self.plan, kernel or functools.partial(fused, scale=scale)
        self._held[plan.rows, :, plan.places] = both[0].transpose(0, 1)
        if plan.alone:
            return self._singles(q[0].transpose(0, 1)[:, :, None], pattern, kernel)[:, :, 0].transpose(0, 1)[None]
        out = torch.empty_like(q)
        if plan.single_rows:
            some = q.new_zeros(plan.width, q.shape[1], 1, q.shape[3])
            some[plan.single_index] = q[0].transpose(0, 1)[plan.single_tokens][:, :, None]
            found = self._singles(some, pattern, kernel)[plan.single_index]
            out[0, :, plan.single_tokens] = found[:, :, 0].transpose(0, 1)
        for alike in plan.longer:
            first, mask = plan.piece(pattern, alike)
            k, v = self._held[alike.rows, :, first : alike.total].chunk(2, 1)
            found = kernel(q[0, :, alike.tokens].transpose(0, 1), k, v, mask)
            out[0, :, alike.tokens] = found.transpose(0, 1)
        return out

    def _singles(self, q: Tensor, pattern: Pattern | None, kernel: Attends) -> Tensor:
        """(width, heads, 1, head_dim): a query of each row over that row's keys."""
        first, mask = self.plan.singles(pattern)
        k, v = self._held[: self.plan.width, :, first : self.plan.total].chunk(2, 1)
        return kernel(q, k, v, mask)

    def move(self, source: int, target: int, length: int) -> None:
        """Row ``source``, of which ``length`` tokens are filled, takes the place of row ``target``."""
        if source != target:
            self._held[target] = 0
            self._held[target, :, :length] = self._held[source, :, :length]
        self._held[source] = 0

    def resize(self, rows: int, capacity: int, lengths: Sequence[int]) -> None:
        """Room for so many rows and tokens; the first rows keep their ``lengths`` tokens."""
        self._held = larger(self._held, rows, capacity, lengths)


def larger(held: Tensor, rows: int, capacity: int, lengths: Sequence[int]) -> Tensor:
    """(rows, n, capacity, d): what the first rows hold of their ``lengths`` tokens, and zeros."""
    room = held.new_zeros(rows, held.shape[1], capacity, held.shape[3])
    for row, length in enumerate(lengths):
        room[row, :, :length] = held[row, :, :length]
    return room


class Slots:
    """A batch of sequences that come and go, in rows 0, 1, 2 ... without gaps.

    Args:
        model: has ``step(tokens, cache, last)``.
        layers: what each mixer keeps.
        products: what each block multiplies by.
        head: from vectors to logits.

    Attributes:
        lengths: tokens that each sequence holds.

    Example, with ``model`` a Transformer of 257 tokens:
        >>> slots = model.prepared(rows=2).make_slots()
        >>> slots.reserve(rows=2, capacity=16)
        >>> slots.join(), slots.join()
        (0, 1)
        >>> [logits.shape for logits in slots.step([Piece(0, [1, 2, 3], 3), Piece(1, [4], 1)])]
        [torch.Size([3, 257]), torch.Size([1, 257])]
        >>> slots.leave(0)  # the last one takes its place
        >>> slots.lengths
        [1]
    """

    padding = None

    def __init__(
        self, model: Any, layers: list[Any], products: list[tuple[Any, Any]], head: Callable[[Tensor], Tensor]
    ) -> None:
        self.model, self.layers, self.products, self.head = model, layers, products, head
        self.lengths: list[int] = []
        self.rows = self.capacity = 0

    def places(self, new: int) -> tuple[slice | Tensor, int]:
        """Positions of the step's tokens, (1, n), and a number above the largest of them."""
        plan: StepPlan = self.layers[0].plan
        return plan.places[None], int(plan.places.max()) + 1

    def reserve(self, rows: int, capacity: int) -> None:
        """Make room for so many sequences of so many tokens each, at least those that are there; the rest is freed."""
        if (rows, capacity) != (self.rows, self.capacity):
            for layer in self.layers:
                layer.resize(rows, capacity, self.lengths)
            self.rows, self.capacity = rows, capacity

    def join(self) -> int:
        """The row of one more sequence, for which room was reserved."""
        self.lengths.append(0)
        return len(self.lengths) - 1

    def truncate(self, row: int, length: int) -> None:
        """A sequence forgets all but its first ``length`` tokens."""
        if length < self.lengths[row] and not self.cuts:
            raise UsageError(
                f"row {row} cannot go back to {length} of its {self.lengths[row]} tokens: a mixer keeps no way back",
                where="model.mixer",
                fix="let it leave and join again, or give it a cache of its own",
            )
        self.lengths[row] = min(self.lengths[row], length)

    @property
    def cuts(self) -> bool:
        """Whether sequences can forget their last tokens."""
        return all(layer.cuts for layer in self.layers)

    def leave(self, row: int) -> None:
        """A sequence goes; the last one takes its row."""
        last = len(self.lengths) - 1
        for layer in self.layers:
            layer.move(last, row, self.lengths[last])
        self.lengths[row] = self.lengths[last]
        self.lengths.pop()

    def step(self, pieces: Sequence[Piece]) -> list[Tensor]:
        """The logits (wanted, vocab) of each piece; its sequence grows by the piece's tokens."""
        device = self.layers[0].device
        plan = StepPlan(pieces, self.lengths, device)
        for layer in self.layers:
            layer.plan = plan
        ends = np.cumsum([len(piece.tokens) for piece in pieces])
        wanted = [np.arange(end - piece.wanted, end) for end, piece in zip(ends, pieces, strict=True)]
        tokens = torch.tensor([[token for piece in pieces for token in piece.tokens]]).to(device)
        logits = self.model.step(tokens, self, torch.from_numpy(np.concatenate(wanted)).to(device))[0]
        for piece in pieces:
            self.lengths[piece.row] += len(piece.tokens)
        return list(logits.split([piece.wanted for piece in pieces]))

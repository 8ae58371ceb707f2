"""Drafts: what may come next in a text, cheaply guessed, with the law of each guess."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ..models.slots import Piece
from .sequences import PassFlops, Sequences, StepFlops

LONGEST = 4
"""Tokens of the longest ending that is looked for in the text before it."""


@dataclass
class Draft:
    """Tokens that may follow a text.

    Args:
        ids: the tokens.
        laws: probabilities (vocab,) by which each was drawn; None: it was certain.

    Example:
        >>> Draft([5, 6], [None, None]).ids
        [5, 6]
    """

    ids: list[int] = field(default_factory=list)
    laws: list[Tensor | None] = field(default_factory=list)


class Drafts(Protocol):
    """Where drafts come from, for some rows of text."""

    def begin(self, prompts: Sequence[Piece]) -> None:
        """Read what comes before the last token of the rows' prompts, which no figure counts."""

    def propose(self, texts: Sequence[Sequence[int]], counts: Sequence[int], numbers: Any) -> list[Draft]:
        """A draft of at most so many tokens for each row.

        Args:
            texts: all of each row, prompt and new tokens.
            counts: at most so many of each; 0: the row wants none.
            numbers: float64 (rows, counts) in [0, 1), by which they are drawn.
        """

    def keep(self, row: int, length: int) -> None:
        """The first ``length`` tokens of a row are settled; whatever was drafted behind them is not."""

    def spent(self, row: int) -> int:
        """FLOPs that were spent on a row so far."""


class ModelDrafts:
    """Drafts of another model, or of a part of the model that judges them, which continues that one's rows.

    Args:
        model: laid out.
        rows: how many.
        law: from logits (batch, vocab) to the probabilities by which tokens are drawn.
        shared: the rows of the model that judges; None: the draft's model has rows of its own.
        flops: of the draft's whole passes.

    Example, with ``model`` a Transformer of 257 tokens:
        >>> greedy = lambda logits: torch.nn.functional.one_hot(logits.argmax(-1), 257).double()
        >>> drafts = ModelDrafts(model.prepared(2), 1, greedy, PassFlops(model))
        >>> len(drafts.propose([[1, 2]], [3], np.zeros((1, 3)))[0].ids)
        3
    """

    def __init__(
        self, model: Any, rows: int, law: Callable[[Tensor], Tensor], flops: PassFlops, shared: Sequences | None = None
    ) -> None:
        self._model, self._law, self._shared = model, law, shared
        self._rows = Sequences(model, rows) if shared is None else shared
        self._flops = [StepFlops(flops) for _ in range(rows)]

    def begin(self, prompts: Sequence[Piece]) -> None:
        if self._shared is None:
            self._rows.step(prompts)

    def propose(self, texts: Sequence[Sequence[int]], counts: Sequence[int], numbers: Any) -> list[Draft]:
        found, before = [Draft() for _ in texts], self._rows.lengths
        for place in range(max(counts, default=0)):
            going = [row for row, count in enumerate(counts) if count > place]
            held, pieces = self._rows.lengths, []
            for row in going:
                pieces.append(Piece(row, [*texts[row], *found[row].ids][held[row] :], 1))
                self._flops[row].add(held[row], len(pieces[-1].tokens), 1)
            by = None if self._shared is None else self._model
            laws = self._law(torch.cat(self._rows.step(pieces, by)))
            for row, law in zip(going, laws, strict=True):
                found[row].ids.append(drawn(law, numbers[row, place]))
                found[row].laws.append(law)
        if self._shared is not None:  # the model that judges reads the drafts itself, and overwrites what they left
            for row, length in enumerate(before):
                self._shared.truncate(row, length)
        return found

    def keep(self, row: int, length: int) -> None:
        if self._shared is None:
            self._rows.truncate(row, length)

    def spent(self, row: int) -> int:
        return self._flops[row].total


class NgramDrafts:
    """Drafts without a model: what followed the text's ending when it last occurred (Saxena 2023, prompt lookup).

    Args:
        rows: how many.

    Example:
        >>> drafts = NgramDrafts(rows=1)
        >>> drafts.propose([[1, 2, 3, 4, 1, 2]], [3], None)[0].ids
        [3, 4, 1]
    """

    def __init__(self, rows: int) -> None:
        self._after: list[dict[tuple[int, ...], int]] = [{} for _ in range(rows)]
        self._read = [0] * rows

    def begin(self, prompts: Sequence[Piece]) -> None:
        """Texts are read when they are asked for."""

    def propose(self, texts: Sequence[Sequence[int]], counts: Sequence[int], numbers: Any) -> list[Draft]:
        return [self._of(row, list(texts[row]), count) if count else Draft() for row, count in enumerate(counts)]

    def _of(self, row: int, text: list[int], count: int) -> Draft:
        after = self._after[row]
        for end in range(max(self._read[row], 1), len(text)):  # an ending without anything behind it is no use
            for size in range(1, min(LONGEST, end) + 1):
                after[tuple(text[end - size : end])] = end
        self._read[row] = len(text)
        for size in range(min(LONGEST, len(text)), 0, -1):
            if (place := after.get(tuple(text[-size:]))) is not None:
                ids = text[place : place + count]
                return Draft(ids, [None] * len(ids))
        return Draft()

    def keep(self, row: int, length: int) -> None:
        """Only settled text is read."""

    def spent(self, row: int) -> int:
        return 0


def drawn(law: Tensor, number: float) -> int:
    """The id that a number in [0, 1) draws from probabilities (vocab,), or from any share of them."""
    cumulative = law.cumsum(0)
    return min(int(np.searchsorted(cumulative.numpy(), number * float(cumulative[-1]), side="right")), len(law) - 1)

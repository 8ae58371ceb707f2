"""What a model says of hidden tokens: the calls of one batch, and what is kept between them.

A call computes no more than it must. Nothing is computed of texts that are done or of what lies behind a text's end,
and no logits but those that are asked for. Where text is written block by block by a model that was trained so, what
lies before a block never changes once it is written: its keys and values are kept, exactly. A model whose every
position sees every other has no such parts; ``Keep`` keeps some of them all the same while a block is written, which is
approximate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..core.contracts import Filling, Model
from ..core.contracts.pattern import Bools
from ..core.cost import Cost
from ..models.sheet import WritingSheet
from .batching import costs_side_by_side
from .canvas import Canvas

Keep = Literal["before", "around"]
"""Of a text, while a block is written: what lies before it, or everything but the block."""


class Reader:
    """The calls of one batch of texts.

    Args:
        model: a ``Model``.
        filling: its conventions; without blocks where tokens that were shown may be hidden again, as nothing is kept.
        canvas: the texts at the beginning.
        sheets: what makes the model's sheets (``models.sheet.sheets_of``); None: every call is a whole pass.
        ahead: whether a block sees that more hidden tokens follow it.
        keep: of a model whose every position sees every other; None: everything is computed in each call.

    Example, with ``model`` a Transformer over bytes:
        >>> from isoflop.models.patterns.full import FullPattern
        >>> filling = Filling(mask=256, ids=256, pattern=FullPattern())
        >>> canvas = Canvas.of([[104, None], [None]], filling, None, torch.device("cpu"))
        >>> logits, costs = Reader(model, filling, canvas).logits(canvas, canvas.tokens, canvas.may)
        >>> logits.shape, len(costs)
        (torch.Size([2, 256]), 2)
    """

    def __init__(
        self,
        model: Any,
        filling: Filling,
        canvas: Canvas,
        sheets: Callable[[int, int], WritingSheet] | None = None,
        *,
        ahead: bool = True,
        keep: Keep | None = None,
    ) -> None:
        self.model, self.filling, self.ahead, self.keep = model, filling, ahead, keep
        rows, length = canvas.tokens.shape
        self._sheet = None if sheets is None else sheets(rows, length)
        self._kept = np.zeros((rows, length), bool)
        self._block = np.full(rows, -1)
        self._price = cache(partial(_whole, model, filling))  # pricing takes half as long as a call

    def logits(self, canvas: Canvas, tokens: Tensor, asked: Tensor) -> tuple[Tensor, list[Cost]]:
        """One call.

        Args:
            canvas: the texts.
            tokens: int64 (batch, length), what the model is shown of them.
            asked: bool (batch, length), the tokens that are asked about, at least one.

        Returns:
            Logits (n, ids) of the asked tokens, row by row, and what the call cost for each row.
        """
        if self._sheet is None:
            found = self.filling.logits(self.model, tokens, canvas.documents(ahead=self.ahead))
            return found[asked].float(), costs_side_by_side(self._price, canvas.sizes, tokens.shape[1])
        shown = self._shown(canvas)
        asked_of = asked.cpu().numpy()
        wanted = np.roll(asked_of, -1, 1) if self.filling.shifted else asked_of
        if self.filling.block is not None or self.keep is None:
            fresh = self._fresh(canvas, shown, asked_of)
            return self._call(self._sheet, tokens, fresh | wanted, shown, wanted)
        block = canvas.block.numpy()
        enters = asked_of.any(1) & (self._block != block)
        self._block = np.where(enters, block, self._block)
        costs, pieces = [Cost()] * len(shown), list[tuple[Bools, Tensor]]()
        for rows, fresh in ((enters, shown), (~enters, self._within(canvas, shown))):
            own = wanted & rows[:, None]
            if own.any():
                found, some = self._call(self._sheet, tokens, fresh | own, shown, own)
                pieces.append((own, found))
                costs = [a + b for a, b in zip(costs, some, strict=True)]
        return _in_order(pieces), costs

    def select(self, rows: Sequence[int], length: int) -> None:
        """Keep these texts, of which the longest has ``length`` tokens."""
        self._kept, self._block = self._kept[rows, :length], self._block[rows]
        if self._sheet is not None:
            self._sheet.select(rows)

    def _call(
        self, sheet: WritingSheet, tokens: Tensor, fresh: Bools, shown: Bools, wanted: Bools
    ) -> tuple[Tensor, list[Cost]]:
        """A call for the rows of which something is wanted."""
        fresh = fresh & wanted.any(1, keepdims=True)
        logits = sheet.call(tokens, fresh, shown, wanted, self.filling.pattern)
        return self.filling.allowed(logits).float(), sheet.costs(self.filling.pattern, wanted)

    def _shown(self, canvas: Canvas) -> Bools:
        """What may be seen."""
        beyond = canvas.documents(ahead=self.ahead)
        if beyond is None:
            return np.ones(tuple(canvas.tokens.shape), bool)
        return (beyond == 0).cpu().numpy()

    def _fresh(self, canvas: Canvas, shown: Bools, asked: Bools) -> Bools:
        """What must be computed, where nothing is approximated: what the asked can see, but for what is kept."""
        if self.filling.block is None:
            return shown
        before, _ = self._sides(canvas)
        blocks = canvas.blocks.cpu().numpy()
        fresh: Bools = shown & (blocks <= np.where(asked, blocks, -1).max(1, keepdims=True)) & ~self._kept
        self._kept |= fresh & before
        return fresh

    def _within(self, canvas: Canvas, shown: Bools) -> Bools:
        """What is computed within a block."""
        before, within = self._sides(canvas)
        return shown & (within if self.keep == "around" else ~before)

    def _sides(self, canvas: Canvas) -> tuple[Bools, Bools]:
        """What lies before each row's block, and the block."""
        blocks, block = canvas.blocks.cpu().numpy(), canvas.block.numpy()[:, None]
        return blocks < block, blocks == block


def _whole(model: Any, filling: Filling, size: int) -> Cost:
    """What a whole pass over one text of so many tokens costs."""
    return model.flops(1, size, filling.pattern).forward if isinstance(model, Model) else Cost()


def _in_order(pieces: list[tuple[Bools, Tensor]]) -> Tensor:
    """Logits of several calls, row by row of the batch."""
    if len(pieces) == 1:
        return pieces[0][1]
    places = np.concatenate([np.flatnonzero(own) for own, _ in pieces])
    order = torch.from_numpy(np.argsort(places)).to(pieces[0][1].device)
    return torch.cat([logits for _, logits in pieces])[order]

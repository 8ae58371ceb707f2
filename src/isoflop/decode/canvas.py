"""Texts that are being filled in, side by side: which tokens are hidden, and where each row stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.contracts import Filling


@dataclass
class Canvas:
    """A batch of texts.

    Args:
        tokens: int64 (batch, length), the mask where hidden; behind a row's end the mask, too.
        hidden: bool (batch, length).
        given: bool (batch, length), what was never hidden; False behind a row's end.
        blocks: int64 (batch, length), the number of the block of each position that was hidden at first.
        sizes: tokens of each row.
        block: int64 (batch,), the block that each row is at.
        steps: int64 (batch,), calls within that block so far.
        wanted: int64 (batch,), tokens that were hidden in it at its beginning.
        mask: the id of what is hidden.

    Example:
        >>> from isoflop.models.patterns.full import FullPattern
        >>> filling = Filling(mask=9, ids=9, pattern=FullPattern())
        >>> canvas = Canvas.of([[4, None, None], [None]], filling, None, torch.device("cpu"))
        >>> canvas.tokens.tolist(), canvas.left.tolist(), canvas.documents(ahead=True).tolist()
        ([[4, 9, 9], [9, 9, 9]], [2, 1], [[0, 0, 0], [0, 1, 1]])
    """

    tokens: Tensor
    hidden: Tensor
    given: Tensor
    blocks: Tensor
    sizes: list[int]
    block: Tensor
    steps: Tensor
    wanted: Tensor
    mask: int

    @classmethod
    def of(
        cls, templates: Sequence[Sequence[int | None]], filling: Filling, block: int | None, device: torch.device
    ) -> Canvas:
        """The canvas of some templates.

        Args:
            templates: ids, None where hidden.
            filling: the model's conventions; its own blocks, if it has some, stand for ``block``.
            block: tokens of a block, counted from the first hidden one on; None: each text is one block.
            device: where it lies.
        """
        sizes = [len(template) for template in templates]
        shape = len(templates), max(sizes, default=0)
        tokens = torch.full(shape, filling.mask, dtype=torch.int64)
        hidden, given = (torch.zeros(shape, dtype=torch.bool) for _ in range(2))
        blocks = torch.zeros(shape, dtype=torch.int64)
        size = filling.block or block
        for row, template in enumerate(templates):
            tokens[row, : len(template)] = torch.tensor(
                [filling.mask if i is None else i for i in template], dtype=torch.int64
            )
            hidden[row, : len(template)] = torch.tensor([i is None for i in template], dtype=torch.bool)
            given[row, : len(template)] = ~hidden[row, : len(template)]
            if size is not None and None in template:
                origin = 0 if filling.block else template.index(None)
                blocks[row] = (torch.arange(shape[1]) - origin).div(size, rounding_mode="floor")
        tokens, hidden, given, blocks = (x.to(device) for x in (tokens, hidden, given, blocks))
        block_of, steps, wanted = torch.zeros(3, shape[0], dtype=torch.int64).unbind()
        made = cls(tokens, hidden, given, blocks, sizes, block_of.clone(), steps.clone(), wanted.clone(), filling.mask)
        made._enter()
        return made

    @property
    def left(self) -> Tensor:
        """int64 (batch,), tokens that are hidden still."""
        return self.hidden.sum(-1).cpu()

    @property
    def may(self) -> Tensor:
        """bool (batch, length), the hidden tokens of each row's block."""
        return self.hidden & (self.blocks == self.block.to(self.blocks.device)[:, None])

    @property
    def inside(self) -> Tensor:
        """bool (batch, length), what is text: no place behind a row's end."""
        places = torch.arange(self.tokens.shape[1], device=self.tokens.device)
        return places < torch.tensor(self.sizes, device=places.device)[:, None]

    def documents(self, *, ahead: bool) -> Tensor | None:
        """Numbers of documents (batch, length), where rows see less than the whole: what lies behind their ends.

        Args:
            ahead: a row sees the hidden tokens behind its block, too.
        """
        beyond = ~self.inside
        if not ahead:
            beyond = beyond | (self.hidden & (self.blocks > self.block.to(self.blocks.device)[:, None]))
        return beyond.long() if bool(beyond.any()) else None

    def write(self, chosen: Tensor, tokens: Tensor) -> None:
        """Show the chosen places (bool (batch, length)), whose tokens come row by row."""
        self.tokens[chosen] = tokens
        self.hidden &= ~chosen

    def stepped(self) -> None:
        """A call is over."""
        self.steps += 1
        self._enter()

    def _enter(self) -> None:
        """Let rows that have filled their block enter the next one."""
        if not self.tokens.numel():
            return
        last = int(self.blocks.max()) + 1
        block = self.blocks.masked_fill(~self.hidden, last).amin(-1).cpu()
        new = (block != self.block) | (self.wanted == 0)
        self.block = torch.where(block < last, block, self.block)
        self.steps.masked_fill_(new, 0)
        self.wanted = torch.where(new, self.may.sum(-1).cpu(), self.wanted)

    def texts(self) -> list[list[int]]:
        """The tokens of each row."""
        return [row[:size] for row, size in zip(self.tokens.tolist(), self.sizes, strict=True)]

    def only(self, asked: Tensor) -> tuple[Canvas, Tensor]:
        """The asked tokens of each row, side by side, as a canvas, and where they stand: int64 (batch, most).

        Rows with fewer of them are filled up with places that are neither hidden nor given.

        Args:
            asked: bool (batch, length).
        """
        where = (~asked).byte().argsort(dim=-1, stable=True)[:, : max(1, int(asked.sum(-1).max()))]
        inside, sizes = asked.gather(1, where), asked.sum(-1).tolist()
        hidden, given = (x.gather(1, where) & inside for x in (self.hidden, self.given))
        tokens, blocks = (x.gather(1, where) for x in (self.tokens, self.blocks))
        return Canvas(tokens, hidden, given, blocks, sizes, self.block, self.steps, self.wanted, self.mask), where

    def put_back(self, asked: Tensor, part: Canvas) -> None:
        """Take what became of the asked tokens on a canvas of ``only``."""
        inside = torch.arange(part.tokens.shape[1], device=asked.device) < asked.sum(-1, keepdim=True)
        self.tokens[asked], self.hidden[asked] = part.tokens[inside], part.hidden[inside]

    def select(self, rows: Sequence[int]) -> Canvas:
        """Some of the rows, no longer than the longest of them."""
        sizes = [self.sizes[row] for row in rows]
        longest, index = max(sizes), torch.tensor(rows)
        where = index.to(self.tokens.device)
        tokens, hidden, given, blocks = (
            x[where, :longest] for x in (self.tokens, self.hidden, self.given, self.blocks)
        )
        block, steps, wanted = self.block[index], self.steps[index], self.wanted[index]
        return Canvas(tokens, hidden, given, blocks, sizes, block, steps, wanted, self.mask)

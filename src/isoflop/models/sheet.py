"""Texts that are written in any order, side by side: keys and values by place, of which each call computes some anew.

The tokens that a call computes lie in one row, whichever texts and places they are of: products see all of them at
once, and nothing is spent on filling up shorter texts or on those that are done. Attention alone tells texts apart.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..core.contracts import Pattern, Preparable, within
from ..core.contracts.pattern import Bools
from ..core.cost import Cost
from ..ledger import formulas
from .attend import block_pairs
from .cache import Attends, HeldKeyValues, Padding, fused

_ROWS = 32  # vectors of a call, about: many


class SheetPlan:
    """What one call computes, and what that sees. Layers of a call share it.

    Args:
        fresh: bool (rows, length), the places that are computed.
        shown: bool (rows, length), those that may be seen; what is fresh is among them.
        pattern: who sees whom among places.
        device: where tensors are wanted.

    Attributes:
        rows: row of each computed token, int64 (n,).
        places: place of each, int64 (n,).
        counts: computed tokens of each row.

    Example:
        >>> from isoflop.models.patterns.full import FullPattern
        >>> fresh = np.array([[False, True], [False, False]])
        >>> plan = SheetPlan(fresh, np.ones((2, 2), bool), FullPattern(), torch.device("cpu"))
        >>> plan.rows.tolist(), plan.places.tolist(), plan.pairs(None).tolist()
        ([0], [1], [2, 0])
    """

    def __init__(self, fresh: Bools, shown: Bools, pattern: Pattern, device: torch.device) -> None:
        rows, places = np.nonzero(fresh)
        self.counts: npt.NDArray[np.int64] = fresh.sum(1)
        self.width, self.total = int(self.counts.max()), int(np.flatnonzero((fresh | shown).any(0))[-1]) + 1
        self._taking = np.flatnonzero(self.counts)
        self._shown, self._pattern, self.device = shown[self._taking, : self.total], pattern, device
        taken = self.counts[self._taking]
        among = np.arange(self.width) < taken[:, None]
        self._queries = np.zeros(among.shape, np.int64)
        self._queries[among], self._real = places, among
        self.rows, self.places = torch.from_numpy(rows).to(device), torch.from_numpy(places).to(device)
        self.all_rows = len(self._taking) == len(fresh)
        self.taking = torch.from_numpy(self._taking).to(device)
        self.even = bool(among.all())
        group, slot = np.nonzero(among)
        self.group, self.slot = torch.from_numpy(group).to(device), torch.from_numpy(slot).to(device)
        self._known: dict[Any, tuple[Tensor | None, npt.NDArray[np.int64]]] = {}

    def mask(self, own: Pattern | None) -> Tensor | None:
        """Who sees whom, within a layer's own pattern: bool (texts, 1, width, total); None: all see all."""
        return self._of(own)[0]

    def pairs(self, own: Pattern | None) -> npt.NDArray[np.int64]:
        """Pairs (query, key) of each row: int64 (rows,)."""
        return self._of(own)[1]

    def _of(self, own: Pattern | None) -> tuple[Tensor | None, npt.NDArray[np.int64]]:
        if own not in self._known:
            queries, keys = self._queries[:, :, None], np.arange(self.total)
            seen = self._pattern.sees(queries, keys) & self._shown[:, None]
            if own is not None:
                seen = seen & own.sees(queries, keys)
            pairs = np.zeros(len(self.counts), np.int64)
            pairs[self._taking] = (seen & self._real[:, :, None]).sum((1, 2))
            seen = seen | ~self._real[:, :, None]  # nothing is undefined where there is no token
            mask = None if seen.all() else torch.from_numpy(seen[:, None]).to(self.device)
            self._known[own] = mask, pairs
        return self._known[own]


class SheetKeyValues(HeldKeyValues):
    """Those of one layer, by row and place; what was not computed yet is zero.

    Args:
        rows: texts.
        heads: key-value heads.
        length: places of each.
        head_dim: numbers of a head.
        dtype: of products.
        device: where to keep them.

    Attributes:
        plan: of the present call.

    Example:
        >>> SheetKeyValues(2, 2, 16, 8, torch.float32, torch.device("cpu")).capacity
        16
    """

    plan: SheetPlan

    def __init__(
        self, rows: int, heads: int, length: int, head_dim: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        super().__init__(rows, heads, length, head_dim, dtype, device)
        self._held.zero_()

    def places(self, new: int) -> tuple[slice | Tensor, int]:
        """Places of the call's tokens, (1, n), and a number above the largest of them."""
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
        """Replace the keys and values of the call's tokens, and let each look at what it may see of its text.

        Args:
            q: (1, heads, n, head_dim).
            both: (1, 2 kv_heads, n, head_dim), keys before values.
            pattern: what a place sees at most in this layer.
            padding: none, as texts begin at their first place.
            scale: factor on the scores, by default 1 / sqrt(head_dim).
            kernel: what attends, with a scale of its own; by default torch's.
        """
        plan, kernel = self.plan, kernel or functools.partial(fused, scale=scale)
        self._held[plan.rows, :, plan.places] = both[0].transpose(0, 1)
        held = self._held if plan.all_rows else self._held[plan.taking]
        k, v = held[:, :, : plan.total].chunk(2, 1)
        mask = plan.mask(pattern)
        if plan.even:
            some = q[0].view(q.shape[1], -1, plan.width, q.shape[3]).transpose(0, 1)
            return kernel(some, k, v, mask).transpose(0, 1).flatten(1, 2)[None]
        some = q.new_zeros(len(held), q.shape[1], plan.width, q.shape[3])
        some[plan.group, :, plan.slot] = q[0].transpose(0, 1)
        return kernel(some, k, v, mask)[plan.group, :, plan.slot].transpose(0, 1)[None]

    def select(self, rows: Tensor) -> None:
        """Keep these rows, in this order."""
        self._held = self._held[rows.to(self._held.device)]


@dataclass
class WritingSheet:
    """Texts of any lengths, of which a model computes any places anew; the others stay as they were computed.

    Args:
        model: prepared.
        layers: what each mixer keeps.
        passes: what passes over so many tokens cost but for attention and logits, as far as it is known.

    Example, with ``model`` a Transformer of 257 tokens:
        >>> from isoflop.models.patterns.full import FullPattern
        >>> sheet = sheets_of(model)(2, 5)
        >>> fresh = np.ones((2, 5), bool)
        >>> sheet.call(torch.zeros(2, 5, dtype=torch.int64), fresh, fresh, fresh, FullPattern()).shape
        torch.Size([10, 257])
    """

    model: Any
    layers: list[SheetKeyValues]
    passes: dict[tuple[int, Pattern], Cost] = field(default_factory=dict)
    padding = None

    @property
    def products(self) -> list[tuple[Any, Any]]:
        """What each block multiplies by."""
        return self.model.products  # type: ignore[no-any-return]

    @property
    def head(self) -> Callable[[Tensor], Tensor]:
        """From vectors to logits."""
        return self.model.to_logits  # type: ignore[no-any-return]

    def places(self, new: int) -> tuple[slice | Tensor, int]:
        """Places of the call's tokens, (1, n), and a number above the largest of them."""
        return self.layers[0].places(new)

    def call(self, tokens: Tensor, fresh: Bools, shown: Bools, wanted: Bools, pattern: Pattern) -> Tensor:
        """Compute some places, and give the logits (wanted places, vocab) of some of them, row by row.

        Args:
            tokens: int64 (rows, length).
            fresh: bool (rows, length), the places that are computed, at least one.
            shown: bool (rows, length), those that may be seen.
            wanted: bool (rows, length), those of the fresh ones whose logits are wanted.
            pattern: who sees whom.
        """
        plan = SheetPlan(fresh, shown, pattern, tokens.device)
        for layer in self.layers:
            layer.plan = plan
        index = torch.from_numpy(np.flatnonzero(wanted[fresh])).to(tokens.device)
        logits: Tensor = self.model.step(tokens[plan.rows, plan.places][None], self, index)[0]
        return logits

    def costs(self, pattern: Pattern, wanted: Bools) -> list[Cost]:
        """What the last call cost for each row: its own pairs and logits, and what was executed for it.

        Args:
            pattern: who saw whom.
            wanted: bool (rows, length), whose logits were wanted.
        """
        plan, kinds, known = self.layers[0].plan, self._kinds, dict[Any, Cost]()
        pairs = {kind: plan.pairs(kind[0]).tolist() for kind in kinds}
        found = []
        for row, (count, logits) in enumerate(zip(plan.counts.tolist(), wanted.sum(1).tolist(), strict=True)):
            facts = count, logits, *(pairs[kind][row] for kind in kinds)
            if facts not in known:
                known[facts] = self._cost(pattern, plan, *facts)
            found.append(known[facts])
        return found

    @functools.cached_property
    def _kinds(self) -> Counter[tuple[Pattern | None, int, int]]:
        """Layers by what tells their attention apart: own pattern, heads, numbers of a head."""
        mixers = (block.mixer for block in self.model.model.blocks)
        return Counter((mixer.pattern, mixer.heads, mixer.head_dim) for mixer in mixers)

    def _cost(self, pattern: Pattern, plan: SheetPlan, count: int, logits: int, *pairs: int) -> Cost:
        """Of so many tokens of one row: a forward pass over as many, with other pairs and fewer logits."""
        if not count:
            return Cost()
        if (count, pattern) not in self.passes:
            self.passes[count, pattern] = self._rest(pattern, count)
        cost = self.passes[count, pattern] + self._logits(logits)
        executed = plan.width * plan.total
        for ((_, heads, size), layers), met in zip(self._kinds.items(), pairs, strict=True):
            here = formulas.attention(1, heads, size, count, plan.total, pairs=met, executed_pairs=executed)
            cost += here.forward * layers
        return cost

    def _rest(self, pattern: Pattern, count: int) -> Cost:
        """A forward pass over so many tokens, without its attention and its logits."""
        cost: Cost = self.model.model.flops(1, count, pattern).forward - self._logits(count)
        for (own, heads, size), layers in self._kinds.items():
            seen = within(own, pattern) or pattern
            among, done = seen.pairs(count), block_pairs(count, seen)
            cost -= formulas.attention(1, heads, size, count, pairs=among, executed_pairs=done).forward * layers
        return cost

    def _logits(self, count: int) -> Cost:
        """The logits of so many tokens."""
        vocab, width = self.model.model.head.shape
        return formulas.linear(count, width, vocab).forward + Cost(elementwise=4 * count * vocab)

    def select(self, rows: Sequence[int]) -> None:
        """Keep these texts, in this order."""
        for layer in self.layers:
            layer.select(torch.tensor(rows))


def sheets_of(model: Any) -> Callable[[int, int], WritingSheet] | None:
    """What makes sheets of so many texts and places with a model's weights as they are now, laid out once.

    None where the model cannot lay them out, or a mixer of it is not ``by_place``.

    Example:
        >>> sheets_of(torch.nn.Linear(2, 2)) is None
        True
    """
    mixers = [block.mixer for block in getattr(model, "blocks", ())]
    by_place = bool(mixers) and all(getattr(mixer, "by_place", False) for mixer in mixers)
    if not by_place or not isinstance(model, Preparable):
        return None
    ready, dtype = model.prepared(_ROWS), model.dtype  # type: ignore[attr-defined]
    passes: dict[tuple[int, Pattern], Cost] = {}

    def sheet(rows: int, length: int) -> WritingSheet:
        return WritingSheet(ready, [mixer.make_sheet(rows, length, dtype) for mixer in mixers], passes)

    return sheet

"""Attention to what a block gave at earlier positions, by tiles, forward and backward.

Position i sees itself as the block reads it, and every j < i as the block left it: so i waits for all before it, and
for what the block does behind its attention. Only products with the block's own weights must go position by position;
what positions give one another goes by tiles (``tiles.py``): keys and values are read N log N times and not N^2.

Queries and keys have the length sqrt(d) at most, so no score is above sqrt(d): exponentials are summed as they are.

The gradient: what follows from a position's output (the block's own, and later positions' attention to it) is known
once all later ones are done, so a sweep from the last position to the first finds the gradients of all outputs, keys,
values and queries. Those of the weights then follow from products of all positions at once, which autograd makes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from .kernels import decoding, first_order, inputs_alone
from .slots import SameLength, SlotMemory, larger
from .tiles import tile_at, tiling

# torch's annotations of Function are untyped; the class below is private and reached through a typed function.
# mypy: disable-error-code="no-untyped-call, no-any-return, misc"


class Steps(NamedTuple):
    """What a block does at each position by itself, for any number of positions.

    Example:
        >>> still = Steps(lambda x: (x, x, x), lambda x, mixed: mixed, lambda z: (z, z))
        >>> still.closes(torch.zeros(1, 2, 4), torch.ones(1, 2, 4)).sum().item()
        8.0
    """

    opens: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]
    """Of its input (batch, n, width): scaled queries, own keys and own values (batch * heads, n, d)."""
    closes: Callable[[Tensor, Tensor], Tensor]
    """Of its input and of what attention gathered (batch * heads, n, d): its output (batch, n, width)."""
    keeps: Callable[[Tensor], tuple[Tensor, Tensor]]
    """Of its output: keys and values (batch * heads, n, d) that later positions see."""


class Earlier(NamedTuple):
    """Positions before those that are computed.

    Example:
        >>> Earlier(torch.ones(2, 3, 8), torch.ones(2, 3, 9), shown=None).keys.shape
        torch.Size([2, 3, 8])
    """

    keys: Tensor
    """(batch * heads, m, d)."""
    values: Tensor
    """(batch * heads, m, d + 1), a 1 behind each."""
    shown: Tensor | None
    """bool (batch * heads or 1, n or 1, m): which of them each position sees; None: all."""


class RecurrentCache:
    """Keys and values of the positions so far, a 1 behind each value: what gathers values counts weights as well.

    Args:
        batch: sequences.
        heads: of each.
        capacity: positions that there is room for at first.
        head_dim: numbers of a head.
        like: a tensor of the dtype and device that are wanted.

    Attributes:
        length: positions seen.

    Example:
        >>> kept = RecurrentCache(1, 2, 4, 8, like=torch.zeros(()))
        >>> kept.put(torch.ones(2, 3, 8), torch.ones(2, 3, 8))
        >>> kept.length, kept.values[:, :3].sum().item()
        (3, 54.0)
    """

    def __init__(self, batch: int, heads: int, capacity: int, head_dim: int, like: Tensor) -> None:
        self.batch, self.heads, self.length = batch, heads, 0
        self.keys = like.new_empty(batch * heads, capacity, head_dim)
        self.values = like.new_ones(batch * heads, capacity, head_dim + 1)

    def reserve(self, capacity: int) -> None:
        """Make room for so many positions."""
        if capacity > (there := self.keys.shape[1]):
            more = max(capacity, 2 * there) - there
            self.keys, self.values = (
                torch.cat((held, held.new_ones(len(held), more, held.shape[2])), 1) for held in (self.keys, self.values)
            )

    def put(self, keys: Tensor, values: Tensor) -> None:
        """Those of the next positions (batch * heads, n, d)."""
        end = self.length + keys.shape[1]
        self.keys[:, self.length : end] = keys
        self.values[:, self.length : end, :-1] = values
        self.length = end

    def earlier(self, shown: Tensor | None) -> Earlier | None:
        """What new positions find here; ``shown`` as in ``recur``."""
        if not (past := self.length):
            return None
        return Earlier(self.keys[:, :past], self.values[:, :past], None if shown is None else shown[:, :, :past])

    def truncate(self, length: int) -> None:
        """Forget all but the first ``length`` positions."""
        self.length = min(self.length, length)

    def select(self, rows: Tensor) -> None:
        """Keep these rows of the batch, in this order; a row may be taken several times."""
        rows = rows.to(self.keys.device)
        self.keys, self.values = (
            held.unflatten(0, (self.batch, self.heads))[rows].flatten(0, 1) for held in (self.keys, self.values)
        )
        self.batch = len(rows)


class RecurrentSlots(SlotMemory):
    """The same for sequences that come and go, each row filled in order.

    Args:
        heads: of each.
        head_dim: numbers of a head.
        like: a tensor of the dtype and device that are wanted.

    Example:
        >>> slots = RecurrentSlots(2, 8, like=torch.zeros(()))
        >>> slots.resize(3, 16, [])
        >>> slots.keys.shape
        torch.Size([3, 2, 16, 8])
    """

    def __init__(self, heads: int, head_dim: int, like: Tensor) -> None:
        self.keys = like.new_zeros(0, heads, 0, head_dim)
        self.values = like.new_zeros(0, heads, 0, head_dim + 1)

    @property
    def device(self) -> torch.device:
        """Where keys and values lie."""
        return self.keys.device

    def recur(self, x: Tensor, steps: Steps) -> Tensor:
        """The block's outputs (1, n, width) at the step's tokens, whose keys and values are kept."""
        outs, heads = torch.empty_like(x), self.keys.shape[1]
        for group in self.plan.groups:
            batch, new = group.tokens.shape
            kept = RecurrentCache(batch, heads, new, self.keys.shape[3], like=self.keys)
            outs[0, group.tokens] = recur(x[0, group.tokens], steps, kept, earlier=self._earlier(group))
            places = self.plan.rows[group.tokens], slice(None), self.plan.places[group.tokens]
            for held, found in ((self.keys, kept.keys), (self.values, kept.values)):
                held[places] = found.unflatten(0, (batch, heads)).transpose(1, 2)
        return outs

    def _earlier(self, group: SameLength) -> Earlier | None:
        """What the group's rows hold."""
        most = max(group.starts)
        if not most:
            return None
        keys, values = (held[group.rows, :, :most].flatten(0, 1) for held in (self.keys, self.values))
        if min(group.starts) == most:
            return Earlier(keys, values, None)
        starts = torch.tensor(group.starts, device=keys.device).repeat_interleave(self.keys.shape[1])
        return Earlier(keys, values, (torch.arange(most, device=keys.device) < starts[:, None])[:, None])

    def move(self, source: int, target: int, length: int) -> None:
        for held in (self.keys, self.values):
            if source != target:
                held[target] = 0
                held[target, :, :length] = held[source, :, :length]
            held[source] = 0

    def resize(self, rows: int, capacity: int, lengths: Sequence[int]) -> None:
        self.keys, self.values = (larger(held, rows, capacity, lengths) for held in (self.keys, self.values))


def recur(
    x: Tensor,
    steps: Steps,
    kept: RecurrentCache,
    shown: Tensor | None = None,
    *,
    earlier: Earlier | None = None,
    gradient: bool = False,
) -> Tensor:
    """The block's outputs (batch, n, width), position by position, attention by tiles; ``kept`` grows by n.

    Args:
        x: the block's inputs (batch, n, width).
        steps: what the block does at a position.
        kept: of the positions before ``x``.
        shown: bool (batch * heads or 1, n, kept and new): which earlier positions each one sees; None: all.
        earlier: other positions before ``x``, which lie elsewhere; nothing is kept before it then.
        gradient: one is wanted, which nothing may be kept for.
    """
    q, k, v = steps.opens(x)
    with decoding():
        own = (q * k).sum(-1, keepdim=True).exp_()
        gathered = torch.cat((own * v, own), -1)
        if (earlier := earlier or kept.earlier(shown)) is not None:
            _give(gathered, q, *earlier)
        z = _settle(x, q, gathered, steps, kept, shown)
    if not gradient:
        return z
    closed = steps.closes(x, _mean(gathered))
    keys, values = steps.keeps(z)
    return _Settled.apply(closed, q, k, v, keys, values, x.detach(), z, gathered, steps, shown)


def sequential(x: Tensor, steps: Steps, shown: Tensor | None = None) -> Tensor:
    """The same by its definition, all earlier positions at each: slow, and differentiable in torch's own ways."""
    q, k, v = steps.opens(x)
    keys: list[Tensor] = []
    values: list[Tensor] = []
    outs = []
    for t in range(x.shape[1]):
        seen_keys, seen_values = torch.cat([*keys, k[:, t : t + 1]], 1), torch.cat([*values, v[:, t : t + 1]], 1)
        scores = torch.bmm(q[:, t : t + 1], seen_keys.transpose(1, 2))
        if shown is not None:
            scores = scores.masked_fill(~shown[:, t : t + 1, : t + 1], -torch.inf)
        outs.append(steps.closes(x[:, t : t + 1], torch.bmm(torch.softmax(scores, -1), seen_values)))
        key, value = steps.keeps(outs[-1])
        keys.append(key)
        values.append(value)
    return torch.cat(outs, 1)


def traffic(length: int, *, tiled: bool = True) -> int:
    """Vectors of a head that attention to earlier positions reads and writes, forward; weights within a tile apart.

    Args:
        length: positions.
        tiled: or, position by position, over all earlier keys and values.

    Example:
        >>> [traffic(n) // n for n in (256, 1024)], [traffic(n, tiled=False) // n for n in (256, 1024)]
        ([20, 25], [257, 1025])
    """
    if not tiled:
        return sum(2 * t + 2 for t in range(length))
    tiles = tiling(length)
    return sum(3 * (tile.targets.stop - tile.place) + 2 * tile.size for tile in tiles)


def _settle(x: Tensor, q: Tensor, gathered: Tensor, steps: Steps, kept: RecurrentCache, shown: Tensor | None) -> Tensor:
    """Outputs (batch, n, width).

    What each position has ``gathered``, (batch * heads, n, d + 1) with the weights' sum last, grows by what the others
    of these give it.
    """
    past, new = kept.length, x.shape[1]
    kept.reserve(past + new)
    outs: list[Tensor] = []
    each = (part.split(1, 1) for part in (x, gathered[..., :-1], gathered[..., -1:]))  # views: what is given shows
    for t, (row, total, weight) in enumerate(zip(*each, strict=True)):
        outs.append(steps.closes(row, total / weight))
        kept.put(*steps.keeps(outs[-1]))
        if t + 1 < new:
            tile = tile_at(t + 1, new)
            sources = slice(past + tile.sources.start, past + tile.sources.stop)
            seen = None if shown is None else shown[:, tile.targets, sources]
            keys, values = kept.keys[:, sources], kept.values[:, sources]
            _give(gathered[:, tile.targets], q[:, tile.targets], keys, values, seen)
    return torch.cat(outs, 1)


def _give(gathered: Tensor, q: Tensor, keys: Tensor, values: Tensor, seen: Tensor | None) -> None:
    """Add what the keys' positions give to the queries', in place.

    Product and sum apart: into a part of ``gathered`` torch would multiply head by head.
    """
    weights = torch.bmm(q, keys.transpose(1, 2)).exp_()
    if seen is not None:
        weights.mul_(seen)
    gathered.add_(torch.bmm(weights, values))


def _mean(gathered: Tensor) -> Tensor:
    return gathered[..., :-1] / gathered[..., -1:]


def _pulled(function: Callable[[Tensor], Any], at: Tensor, above: Any) -> Tensor:
    """The gradient at ``at`` of a function whose result has the gradient ``above``."""
    with torch.enable_grad(), inputs_alone():
        at = at.detach().requires_grad_()
        return torch.autograd.grad(function(at), at, above)[0]


class _Settled(Function):
    @staticmethod
    def forward(
        ctx: Any,
        closed: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        keys: Tensor,
        values: Tensor,
        x: Tensor,
        z: Tensor,
        gathered: Tensor,
        steps: Steps,
        shown: Tensor | None,
    ) -> Tensor:
        ctx.save_for_backward(q, k, v, keys, values, x, z, gathered)
        ctx.steps, ctx.shown = steps, shown
        return z.clone()

    @staticmethod
    @first_order
    def backward(ctx: Any, grad: Tensor) -> Any:
        q, k, v, keys, values, x, z, gathered = ctx.saved_tensors
        steps, new = ctx.steps, x.shape[1]
        mixed, total = _mean(gathered), gathered[..., -1:]
        to_z, to_mixed, inner = grad.clone(), torch.empty_like(mixed), torch.empty_like(total)
        to_q, to_keys, to_values = (torch.zeros_like(each) for each in (q, keys, values))
        tiles = tiling(new, backwards=True)
        for t in reversed(range(new)):
            at = slice(t, t + 1)
            to_z[:, at] += _pulled(steps.keeps, z[:, at], (to_keys[:, at], to_values[:, at]))
            to_mixed[:, at] = _pulled(lambda m, at=at: steps.closes(x[:, at], m), mixed[:, at], to_z[:, at])
            inner[:, at] = (to_mixed[:, at] * mixed[:, at]).sum(-1, keepdim=True)
            if t:
                tile = next(tiles)
                targets, sources = tile.targets, tile.sources
                weights = torch.bmm(q[:, targets], keys[:, sources].transpose(1, 2)).exp_().div_(total[:, targets])
                if ctx.shown is not None:
                    weights.mul_(ctx.shown[:, targets, sources])
                to_values[:, sources] += torch.bmm(weights.transpose(1, 2), to_mixed[:, targets])
                above = torch.bmm(to_mixed[:, targets], values[:, sources].transpose(1, 2))
                to_scores = above.sub_(inner[:, targets]).mul_(weights)
                to_keys[:, sources] += torch.bmm(to_scores.transpose(1, 2), q[:, targets])
                to_q[:, targets] += torch.bmm(to_scores, keys[:, sources])
        own = (q * k).sum(-1, keepdim=True).exp_().div_(total)
        to_own = ((to_mixed * v).sum(-1, keepdim=True) - inner).mul_(own)
        return to_z, to_q.addcmul_(to_own, k), to_own * q, own * to_mixed, to_keys, to_values, *[None] * 5

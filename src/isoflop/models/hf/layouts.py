"""How one tensor of theirs holds parameters of ours: as it is, transposed, several together, rows in another order.

A layout is a pair of functions of whole tensors, ``split`` from theirs to ours and ``join`` the way back; both only
move numbers, so that a tensor that came in goes out bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TensorLayout:
    """The way between one tensor of theirs and parameters of ours.

    Args:
        split: from their tensor to ours.
        join: from ours to their tensor.
        transposed: whether it is stored as (columns, rows).

    Example, of a weight that is stored as (columns, rows):
        >>> (ours,) = TRANSPOSED.split(torch.zeros(2, 3))
        >>> tuple(ours.shape), tuple(TRANSPOSED.join([ours]).shape)
        ((3, 2), (2, 3))
    """

    split: Callable[[Tensor], Sequence[Tensor]]
    join: Callable[[Sequence[Tensor]], Tensor]
    transposed: bool = False


@dataclass(frozen=True)
class Entry:
    """One tensor of a directory.

    Args:
        theirs: its name, the model's prefix included.
        ours: names of the parameters that it holds.
        layout: how.

    Example, of query, key and value in one tensor:
        >>> entry = Entry("attn.c_attn.bias", ("mixer.q.bias", "mixer.k.bias", "mixer.v.bias"), STACKED)
        >>> entry.shape([(32,), (32,), (32,)])
        (96,)
    """

    theirs: str
    ours: tuple[str, ...]
    layout: TensorLayout

    def shape(self, shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
        """Shape of the tensor that holds parameters of these shapes."""
        return tuple(self.layout.join([torch.empty(shape, device="meta") for shape in shapes]).shape)


SAME = TensorLayout(lambda x: [x], lambda parts: parts[0])
TRANSPOSED = TensorLayout(lambda x: [x.t()], lambda parts: parts[0].t(), transposed=True)
"""A weight that is stored as (columns, rows)."""
STACKED = TensorLayout(lambda x: x.chunk(3, 0), lambda parts: torch.cat(list(parts), 0))
"""Query, key and value, one behind the other."""
STACKED_TRANSPOSED = TensorLayout(
    lambda x: x.t().chunk(3, 0), lambda parts: torch.cat(list(parts), 0).t(), transposed=True
)


def interleaved(heads: int, head_dim: int, turning: int) -> TensorLayout:
    """Query, key and value head by head: (heads, 3, head_dim, ...).

    Args:
        heads: their number.
        head_dim: numbers of a head.
        turning: numbers of a head that turn. Theirs come first, as two halves; ours begin each half of the head, so
            rows of queries and keys change places, which no score sees.
    """
    order = torch.cat([torch.arange(*bounds) for bounds in _bounds(head_dim, turning)])
    back = torch.argsort(order)

    def split(x: Tensor) -> list[Tensor]:
        q, k, v = x.reshape(heads, 3, head_dim, *x.shape[1:]).unbind(1)
        return [each.reshape(heads * head_dim, *x.shape[1:]) for each in (q[:, order], k[:, order], v)]

    def join(parts: Sequence[Tensor]) -> Tensor:
        q, k, v = (each.reshape(heads, head_dim, *each.shape[1:]) for each in parts)
        if q.device.type != "meta":
            q, k = q[:, back], k[:, back]
        return torch.stack((q, k, v), 1).reshape(3 * heads * head_dim, *parts[0].shape[1:])

    return TensorLayout(split, join)


def _bounds(head_dim: int, turning: int) -> list[tuple[int, int]]:
    """Theirs, in our order: first half that turns, first that does not, second half that turns, the rest."""
    half, rest = turning // 2, (head_dim - turning) // 2
    return [(0, half), (turning, turning + rest), (half, turning), (turning + rest, head_dim)]

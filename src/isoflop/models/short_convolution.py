"""A short causal convolution, each channel by itself: over queries, keys and values in Primer (arXiv 2109.08668)."""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.contracts import Documents, Pattern, Seen
from ..core.contracts.pattern import Bools, Positions
from ..core.cost import Cost, Work
from ..core.roles import Shape, new_role
from ..ledger import formulas
from .cache import KeyValues, Padding
from .slots import SlotKeyValues

TAPS = new_role("convolution", decays=False)


class ShortConvolution(nn.Module):
    """y_t = sum over s of w_s x_{t - s}, with weights of each channel's own; what lies before the first one is 0.

    Args:
        channels: numbers of a position.
        taps: positions that each one sums: itself and those before it.

    Example:
        >>> convolution = ShortConvolution(channels=4, taps=3)
        >>> convolution(torch.ones(1, 5, 4))[0, :, 0].tolist()[::4]
        [0.5, 0.8333333730697632]
    """

    role = TAPS

    def __init__(self, channels: int, taps: int) -> None:
        super().__init__()
        self.taps = taps
        weight = torch.full((channels, taps), 0.5 / taps)
        weight[:, -1] = 0.5
        self.weight = nn.Parameter(weight)

    def forward(self, x: Tensor, seen: Seen = None) -> Tensor:
        """(batch, length, channels) -> same; a position sums those alone that it sees."""
        shown = seen_taps(seen, x.shape[1], self.taps, x.device)
        padded = F.pad(x, (0, 0, self.taps - 1, 0))
        if shown is None:
            weight = self.weight.to(x.dtype)[:, None]
            return F.conv1d(padded.transpose(1, 2), weight, groups=len(weight)).transpose(1, 2)
        return self.weigh(padded.unfold(1, self.taps, 1).transpose(2, 3) * shown[..., None])

    def weigh(self, windows: Tensor) -> Tensor:
        """(..., taps, channels), a position's own vector last -> (..., channels)."""
        return torch.einsum("...sc,cs->...c", windows, self.weight.to(windows.dtype))


def shapes(name: str, channels: int, taps: int) -> list[Shape]:
    """Names, roles and shapes of the parameters of a ``ShortConvolution``."""
    return [Shape(f"{name}.weight", TAPS, (channels, taps))]


def work(batch: int, length: int, channels: int, taps: int) -> tuple[Work, Cost]:
    """Work of a forward and of the vectors' gradient, and the cost of the weights' gradient."""
    one = formulas.convolution(batch, channels, channels, [taps], [length], groups=channels).forward
    return Work(forward=one, backward=one), one


def seen_taps(seen: Seen, length: int, taps: int, device: torch.device) -> Tensor | None:
    """Which of the positions t - taps + 1 ... t each t sees: bool ((batch,) length, taps); None: all that there are."""
    if seen is None:
        return None
    if isinstance(seen, Pattern):
        rows = _rows(seen, length, taps)
        return None if rows is None else torch.from_numpy(rows).to(device)
    places = torch.arange(length, device=device)[:, None]
    keys = _keys(places, taps)
    if isinstance(seen, Documents):
        same = seen.ids[:, keys] == seen.ids[:, places]
        rule = seen_taps(seen.pattern, length, taps, device)
        return same if rule is None else same & rule
    return seen[..., places, keys]


def _keys(places: Tensor, taps: int) -> Tensor:
    """(..., 1) positions -> (..., taps) those that they sum; what lies before the first is the first."""
    return (places - torch.arange(taps - 1, -1, -1, device=places.device)).clamp(min=0)


@functools.lru_cache(64)
def _rows(pattern: Pattern, length: int, taps: int) -> Bools | None:
    rows = rows_of(pattern, np.arange(length), taps)
    return None if rows.all() else rows


def rows_of(pattern: Pattern, places: Positions, taps: int) -> Bools:
    """Which of the positions before them those at ``places`` (...) see: (..., taps)."""
    keys = np.maximum(places[..., None] - np.arange(taps - 1, -1, -1), 0)
    return np.asarray(pattern.sees(places[..., None], keys))


# ---------------------------------------------------------------- decoding


class ConvolvedKeyValues(KeyValues):
    """Keys and values, and the vectors that were convolved to get them: so a cache may be cut anywhere.

    Args:
        batch: sequences.
        heads: key-value heads.
        capacity: tokens that there is room for at first.
        head_dim: numbers of a head.
        dtype: of products.
        device: where to keep them.
        channels: numbers that are convolved.

    Example:
        >>> cache = ConvolvedKeyValues(1, 2, 4, 8, torch.float32, torch.device("cpu"), channels=48)
        >>> cache.convolved(torch.ones(1, 3, 48), ShortConvolution(48, 3), None, None).shape
        torch.Size([1, 3, 48])
    """

    def __init__(
        self,
        batch: int,
        heads: int,
        capacity: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
        channels: int,
    ) -> None:
        super().__init__(batch, heads, capacity, head_dim, dtype, device)
        self._before = torch.zeros(batch, capacity, channels, dtype=self.dtype, device=device)

    def convolved(
        self, x: Tensor, convolution: ShortConvolution, pattern: Pattern | None, padding: Padding | None
    ) -> Tensor:
        """The convolution of the next vectors (batch, n, channels), which are kept; ``append`` comes after it."""
        end = self.length + x.shape[1]
        places = torch.arange(self.length, end, device=x.device)[None]
        x = x if padding is None else padding.blanked(x, self.length)
        if end > self._before.shape[1]:
            self._before = F.pad(self._before, (0, 0, 0, max(end, 2 * self.length) - self._before.shape[1]))
        self._before[:, self.length : end] = x
        return _convolve(self._before, torch.arange(len(x), device=x.device)[:, None], places, convolution, pattern)

    def select(self, rows: Tensor) -> None:
        super().select(rows)
        self._before = self._before[rows.to(self._before.device)]


class ConvolvedSlotKeyValues(SlotKeyValues):
    """The same for sequences that come and go.

    Args:
        heads: key-value heads.
        head_dim: numbers of a head.
        dtype: of products.
        device: where to keep them.
        channels: numbers that are convolved.

    Example:
        >>> ConvolvedSlotKeyValues(2, 8, torch.float32, torch.device("cpu"), channels=48).capacity
        0
    """

    def __init__(self, heads: int, head_dim: int, dtype: torch.dtype, device: torch.device, channels: int) -> None:
        super().__init__(heads, head_dim, dtype, device)
        self._before = torch.zeros(0, 0, channels, dtype=self.dtype, device=device)

    def convolved(
        self, x: Tensor, convolution: ShortConvolution, pattern: Pattern | None, padding: Padding | None
    ) -> Tensor:
        """The convolution of the step's vectors (1, n, channels), which are kept."""
        rows, places = self.plan.rows, self.plan.places
        self._before[rows, places] = x[0].to(self.dtype)
        return _convolve(self._before, rows, places, convolution, pattern)[None]

    def move(self, source: int, target: int, length: int) -> None:
        super().move(source, target, length)
        self._before[target] = self._before[source]

    def resize(self, rows: int, capacity: int, lengths: list[int]) -> None:  # type: ignore[override]
        super().resize(rows, capacity, lengths)
        before = self._before.new_zeros(rows, capacity, self._before.shape[2])
        for row, length in enumerate(lengths):
            before[row, :length] = self._before[row, :length]
        self._before = before


def _convolve(
    before: Tensor, rows: Tensor, places: Tensor, convolution: ShortConvolution, pattern: Pattern | None
) -> Tensor:
    """The convolution at ``places`` of ``rows``, whose vectors (rows, capacity, channels) are kept: (..., channels)."""
    taps = convolution.taps
    there = places[..., None] >= torch.arange(taps - 1, -1, -1, device=places.device)
    if pattern is not None:
        there = there & torch.from_numpy(rows_of(pattern, places.cpu().numpy(), taps)).to(places.device)
    windows = before[rows[..., None], _keys(places[..., None], taps)]
    return convolution.weigh(windows * there[..., None])

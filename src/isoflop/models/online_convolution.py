"""A causal convolution whose inputs come one by one, each perhaps made of the output before: exact, O(L log^2 L).

Flash Inference (Oncescu et al. 2024, arXiv 2410.12982): positions give to later ones in tiles (``models.tiles``).
Within a block of positions each input is pushed to the block's later outputs at once (the eager way); from block to
block, tiles are Fourier transforms. How large a block is, a table says that is timed once per machine
(``models.crossover``).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from ..core.cost import Cost
from ..core.errors import UsageError
from ..ledger import formulas
from .crossover import block_of
from .tiles import Tile, open_tiles, tile_at

Taps = Callable[[int], Tensor]
"""From n to the first n taps of a filter (n, channels), or all it has, from the tap of a position on itself."""
AT_ONCE = 1 << 19
"""Numbers, padding included, that are transformed at once: more find their memory in no cache, or not yet mapped
(``benchmarks/results/convolution_tiles.json``)."""


class Kernel:
    """A filter, and its transforms by tile size, made once; several convolutions may share one.

    Args:
        taps: (length, channels), from the tap of a position on itself; or what gives the first n of them, for a filter
            that has no end.
        block: positions within which inputs are pushed: a power of two. By default what is quickest on this machine.

    Attributes:
        longest: positions that the filter reaches; None: there is no end.

    Example:
        >>> Kernel(torch.rand(100, 4), block=16).spectrum(32).shape
        torch.Size([4, 33])
    """

    def __init__(self, taps: Tensor | Taps, block: int | None = None) -> None:
        self.longest: int | None = None
        if isinstance(taps, Tensor):
            whole, self.longest = taps.detach(), len(taps)
            self._make: Taps = lambda length: whole[:length]
        else:
            self._make = taps
        self._taps = self._make(1)
        if self._taps.dim() != 2 or not len(self._taps):
            what = f"taps have the shape {tuple(self._taps.shape)}"
            raise UsageError(what, where="OnlineConvolution", fix="give (length, channels), at least one tap")
        self._spectra: dict[int, Tensor] = {}
        self.block = block_of(self._taps) if block is None else block
        if self.block < 1 or self.block & (self.block - 1):
            fix = f"use {1 << max(self.block, 1).bit_length() - 1}"
            raise UsageError(f"a block of {block} is no power of two", where="OnlineConvolution", fix=fix)

    @property
    def channels(self) -> int:
        """Numbers of an input."""
        return self._taps.shape[1]

    def taps(self, length: int) -> Tensor:
        """The first ``length`` taps (length, channels), or all there are."""
        if length > len(self._taps) and (self.longest is None or len(self._taps) < self.longest):
            self._taps = self._make(length).detach().contiguous()
        return self._taps[:length]

    @functools.cached_property
    def reach(self) -> list[Tensor]:
        """The first n taps (n, 1, channels), for each n up to a block's size: views, made once."""
        taps = self.taps(self.block)[:, None]
        return [taps[:n] for n in range(self.block + 1)]

    def spectrum(self, size: int) -> Tensor:
        """The transform (channels, size + 1) of the first 2 ``size`` taps."""
        if size not in self._spectra:
            self._spectra[size] = torch.fft.rfft(self.taps(2 * size).t(), 2 * size)
        return self._spectra[size]


class OnlineConvolution:
    """z_i = sum over j <= i of y_j taps_(i-j), channel by channel, where y_i may depend on z_(i-1).

    Every z is exact, up to rounding: the same sums in another order. Convolutions of several layers that step in turn
    can do their tiles together (``together``). Nothing can be differentiated.

    Args:
        taps: (length, channels), from the tap of a position on itself; or a ``Kernel``, which others may share.
        batch: sequences that go on side by side.
        capacity: positions that there is room for at first, and to which inputs are pushed; it grows as they come. By
            default all that the taps reach.

    Attributes:
        length: inputs so far.

    Example:
        >>> conv = OnlineConvolution(torch.rand(1000, 4))
        >>> z = conv.step(torch.ones(1, 4))
        >>> for _ in range(3):
        ...     z = conv.step(torch.tanh(z))
        >>> conv.truncate(2)
        >>> conv.extend(torch.ones(5, 1, 4)).shape, conv.length
        (torch.Size([5, 1, 4]), 7)

    Raises, at a step: UsageError beyond the last tap.
    """

    def __init__(self, taps: Tensor | Kernel, batch: int = 1, capacity: int | None = None) -> None:
        self.kernel = taps if isinstance(taps, Kernel) else Kernel(taps)
        self.length, self._peers, self._reach = 0, [self], self.kernel.reach
        self._work, self._outs = torch.empty(0), tuple[Tensor, ...]()  # the block's outputs so far
        self._begun = self._stop = 0  # of the present block: its inputs are pushed to outputs before ``_stop``
        self._tiled = 0  # up to here tiles have been given
        first = self.kernel.taps(1)
        self._batch = batch
        self._y = self._z = first.new_zeros(batch * self.kernel.channels, 0)  # z: what tiles have given
        self._rows = first.new_zeros(self.kernel.block, batch, self.kernel.channels).unbind()  # the block's inputs
        self.reserve(capacity or self.kernel.longest or 1)

    @property
    def capacity(self) -> int:
        """Positions that there is room for."""
        return int(self._z.shape[1])

    def reserve(self, capacity: int) -> None:
        """Make room for so many positions, at least; no more than the filter reaches."""
        longest = self.kernel.longest
        capacity = capacity if longest is None else min(capacity, longest)
        if capacity <= self.capacity:
            return
        self._keep()
        y, self._z = self._y[:, : self.length], self._z.new_zeros(len(self._z), capacity)
        self._y = torch.zeros_like(self._z)
        self._y[:, : self.length] = y
        self._again(self.length)

    def step(self, y: Tensor) -> Tensor:
        """z of the next position (batch, channels), for its y (batch, channels)."""
        place = self.length
        if place >= self._stop:
            self._open(place)
        index = place - self._begun
        self._rows[index].copy_(y)
        self.length = place + 1
        self._work[index:].addcmul_(self._reach[self._stop - place], y)
        return self._outs[index]

    def extend(self, y: Tensor) -> Tensor:
        """z of the next n positions (n, batch, channels), whose y are known: as n steps would, faster."""
        end, found = self.length + len(y), []
        self._check(end)
        self.reserve(end)
        while len(y):
            size = _stride(self.length, len(y), self.kernel.block)
            found.append(self._whole(y[:size]) if size > 1 else self.step(y[0])[None])
            y = y[size:]
        return torch.cat(found) if found else y

    def truncate(self, length: int) -> None:
        """Forget all but the first ``length`` inputs, as if the others had never been."""
        if length >= self.length:
            return
        if length < self._begun:
            self._keep()
            self._again(length)
        else:
            self._block(self._begun, self._rows[: length - self._begun])

    def select(self, rows: Tensor) -> None:
        """Keep these sequences, in this order; one may be taken several times."""
        taken = rows.to(self._y.device)
        self._y, self._z = (self._by_sequence(each)[taken].flatten(0, 1) for each in (self._y, self._z))
        self._batch, self._work = len(taken), self._work[:, taken]
        self._rows, self._outs = torch.stack(self._rows)[:, taken].unbind(), self._work.unbind()

    def _by_sequence(self, numbers: Tensor) -> Tensor:
        """(batch x channels, n) -> (batch, channels, n)."""
        return numbers.view(self._batch, self.kernel.channels, -1)

    def _by_position(self, numbers: Tensor) -> Tensor:
        """A copy (n, batch, channels) of (batch x channels, n)."""
        copied = torch.clone(numbers.contiguous().t(), memory_format=torch.contiguous_format)  # torch's quickest way
        return copied.view(-1, self._batch, self.kernel.channels)

    @staticmethod
    def together(convolutions: Sequence[OnlineConvolution]) -> None:
        """Let convolutions that step in turn, as the layers of one model do, give their tiles in one transform.

        Args:
            convolutions: those of equal channels, blocks and batch work together.
        """
        for each in convolutions:
            each._peers = [other for other in convolutions if other._alike(each)]

    def _alike(self, other: OnlineConvolution) -> bool:
        mine, theirs = ((each.kernel.block, each.kernel.channels, each._batch) for each in (self, other))
        return mine == theirs

    def _check(self, end: int) -> None:
        longest = self.kernel.longest
        if longest is not None and end > longest:
            what = f"position {end} lies beyond the {longest} taps of the filter"
            raise UsageError(what, where="convolution", fix=f"use at most {longest} tokens, or a longer filter")

    def _open(self, place: int) -> None:
        """Begin the block at ``place``, to which all earlier inputs give what they have to."""
        self._check(place + 1)
        if place >= self.capacity:
            self.reserve(2 * place)  # begins the block as well, and pushes what is in it to where there was no room
            return
        if place > self._tiled:
            self._tile(place)
        self._keep()
        self._block(place)

    def _block(self, start: int, inputs: Iterable[Tensor] = ()) -> None:
        """Begin the block at ``start``, which has been given all tiles, with its first ``inputs``."""
        self.length = self._begun = start
        self._stop = min(start + self.kernel.block, self.capacity)
        self._work = self._by_position(self._z[:, start : self._stop])
        self._outs = self._work.unbind()
        for y in inputs:
            self.step(y)

    def _keep(self) -> None:
        """Note the present block's inputs among all others."""
        if self._begun < self.length:
            rows = torch.stack(self._rows[: self.length - self._begun])
            self._y[:, self._begun : self.length] = rows.flatten(1).t()

    def _again(self, length: int) -> None:
        """All that the first ``length`` inputs give to positions behind them."""
        start = length - length % self.kernel.block
        self._z[:, start:] = 0
        for tile in open_tiles(start):
            _give([self], tile)
        self._tiled = start
        self._block(start, self._by_position(self._y[:, start:length]))

    def _tile(self, place: int) -> None:
        """The tile that is due at ``place``, of all convolutions that are there too."""
        due = [each for each in self._peers if each.length == place > each._tiled]
        for each in due:
            each._keep()
            each._tiled = place
        _give(due, tile_at(place))

    def _whole(self, y: Tensor) -> Tensor:
        """z of one or more whole blocks, which begin where a block does."""
        start, size = self.length, len(y)
        if start > self._tiled:
            self._tile(start)
        self._keep()
        here = slice(start, start + size)
        self._y[:, here] = y.flatten(1).t()
        self.length = self._begun = self._stop = start + size
        taps, found = self.kernel.taps(size).t(), self._by_sequence(self._z[:, here].clone())
        inputs = self._by_sequence(self._y[:, here])
        for part, within in _convolved(inputs, lambda part: torch.fft.rfft(taps[part], 2 * size), size):
            found[:, part] += within[..., :size]
        return self._by_position(found.flatten(0, 1))


def _stride(place: int, left: int, block: int) -> int:
    """How many positions from ``place`` on are taken together: whole blocks, a power of two of them, or 1."""
    size = 1 << left.bit_length() - 1
    size = min(size, place & -place) if place else size
    return size if size >= block else 1


def _give(convolutions: Sequence[OnlineConvolution], tile: Tile) -> None:
    """Add what a tile's inputs give to its outputs, for each of the convolutions: all at once where they are small.

    A circular transform of 2 U numbers is exact: only outputs that are not asked for wrap around.
    """
    size = tile.size
    sources = [each._y[:, tile.sources] for each in convolutions]
    if 2 * size * sum(map(len, sources)) <= AT_ONCE:
        spectrum = torch.fft.rfft(torch.stack(sources), 2 * size)
        for each, own in zip(convolutions, spectrum, strict=True):
            sequences = each._by_sequence(own)
            sequences *= each.kernel.spectrum(size)
        for each, given in zip(convolutions, torch.fft.irfft(spectrum, 2 * size), strict=True):
            z = each._z[:, tile.targets]
            z += given[:, size : size + z.shape[1]]
        return
    for each, y in zip(convolutions, sources, strict=True):
        z = each._by_sequence(each._z[:, tile.targets])
        spectrum = each.kernel.spectrum(size)
        for part, given in _convolved(each._by_sequence(y), spectrum.__getitem__, size):
            z[:, part] += given[..., size : size + z.shape[2]]


def _convolved(y: Tensor, spectrum: Callable[[slice], Tensor], size: int) -> Iterator[tuple[slice, Tensor]]:
    """Inputs (batch, channels, ``size``) by a filter of twice as many taps, some channels at a time.

    Args:
        y: the inputs.
        spectrum: of some channels, the transform (channels, size + 1) of 2 ``size`` taps.
        size: positions.

    Yields:
        Which channels, and their circular convolution (batch, channels, 2 size).
    """
    few = max(1, AT_ONCE // (2 * size * len(y)))
    for first in range(0, y.shape[1], few):
        part = slice(first, first + few)
        there = torch.fft.rfft(y[:, part], 2 * size)
        there *= spectrum(part)
        yield part, torch.fft.irfft(there, 2 * size)


def step_cost(place: int, channels: int, block: int, batch: int = 1, capacity: int | None = None) -> Cost:
    """Exact work of ``OnlineConvolution.step`` at position ``place``, the filter's transforms left out.

    Transforms count as FLOPs (``formulas.fft``); what is pushed within a block is elementwise.

    Args:
        place: inputs before it.
        channels: numbers of an input.
        block: of the kernel.
        batch: sequences.
        capacity: positions that there is room for; None: more than a block.
    """
    stop = place - place % block + block
    pushed = (stop if capacity is None else min(stop, capacity)) - place
    cost = Cost(elementwise=2 * pushed * batch * channels, moved=12 * pushed * batch * channels)
    if place and place % block == 0:
        cost += formulas.fft([2 * tile_at(place).size], 2 * batch * channels, real=True)
    return cost

"""Filters of long convolutions: what each channel takes from so many positions ago."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..core.contracts import Beside, Products, Step
from ..core.errors import UsageError
from ..core.roles import Shape
from .cost import pointwise
from .kernels import decoding
from .layers import Matrix, matrix_shapes
from .online_convolution import Kernel
from .short_convolution import TAPS


class Taps:
    """A filter as it is now: from n to its first n taps (n, channels).

    Args:
        make: computes them.
        longest: how many there are; None: there is no end.

    Example:
        >>> Taps(lambda length: torch.ones(length, 4), longest=None)(3).shape
        torch.Size([3, 4])
    """

    def __init__(self, make: Callable[[int], Tensor], longest: int | None) -> None:
        self._make, self.longest = make, longest

    def __call__(self, length: int) -> Tensor:
        if self.longest is not None and length > self.longest:
            what = f"{length} tokens are more than the {self.longest} that the free filter reaches"
            fix = f"use {self.longest} at most, or a model with a longer or an implicit filter"
            raise UsageError(what, where="model.mixer.length", fix=fix)
        return self._make(length)

    @functools.cached_property
    def kernel(self) -> Kernel:
        """The same for online convolutions, which share its transforms."""
        return Kernel(self if self.longest is None else self(self.longest))


def kept(weight: Tensor) -> Tensor:
    """A weight, or a copy of it where what is laid out for decoding must not see it change."""
    return weight.detach().clone() if decoding.on() else weight


def decays(width: int, length: int) -> Tensor:
    """Rates (width,) by which the channels' windows decay a position: their memories grow from 1 position to length."""
    return float(length) ** -torch.linspace(0, 1, width)


def window(rates: Tensor, length: int) -> Tensor:
    """(length, width): exponential windows, of norm 1 each where ``length`` holds them."""
    lags = torch.arange(length, dtype=rates.dtype, device=rates.device)
    return torch.exp(-torch.outer(lags, rates)) * (1 - torch.exp(-2 * rates)).sqrt()


class FreeFilter(nn.Module):
    """A parameter for each tap, times a fixed window.

    Args:
        width: channels.
        length: taps.

    Example:
        >>> FreeFilter(4, 100).taps()(10).shape
        torch.Size([10, 4])
    """

    role = TAPS

    def __init__(self, width: int, length: int) -> None:
        super().__init__()
        self.free = Matrix(length, width, role=TAPS, std=1.0)
        self.register_buffer("rates", decays(width, length), persistent=False)
        self.rates: Tensor

    def taps(self) -> Taps:
        """As it is now."""
        weight, rates = kept(self.free.read()), self.rates
        return Taps(lambda length: weight[:length] * window(rates, length), len(weight))

    @staticmethod
    def shapes(width: int, length: int) -> list[Shape]:
        """Its parameters."""
        return [Shape("free.weight", TAPS, (length, width))]


class ImplicitFilter(nn.Module):
    """A small network of sines from the lag to its tap, times a fixed window: as long as one asks for.

    It reads each lag as cosines and sines whose wavelengths grow from 2 to 2 ``length``, by equal factors.

    Args:
        width: channels.
        length: the scale of its windows and wavelengths; taps go on beyond.
        hidden: width of the network.
        waves: of a lag.

    Example:
        >>> filter = ImplicitFilter(4, 100, hidden=8, waves=3)
        >>> filter.taps()(250).shape
        torch.Size([250, 4])
    """

    def __init__(self, width: int, length: int, hidden: int, waves: int) -> None:
        super().__init__()
        self.first = Matrix(hidden, 2 * waves, bias=True)
        self.second = Matrix(hidden, hidden, bias=True)
        self.last = Matrix(width, hidden, std=(2 / hidden) ** 0.5)
        turns = math.pi * float(length) ** -torch.linspace(0, 1, waves, dtype=torch.float64)
        self.register_buffer("turns", turns, persistent=False)
        self.register_buffer("rates", decays(width, length), persistent=False)
        self.turns: Tensor
        self.rates: Tensor

    def taps(self) -> Taps:
        """As it is now."""
        dtype = self.first.weight.dtype
        first, second, last = (matrix.product(dtype) for matrix in (self.first, self.second, self.last))

        def make(length: int) -> Tensor:
            angles = torch.outer(torch.arange(length, dtype=torch.float64, device=self.turns.device), self.turns)
            waves = torch.cat((angles.cos(), angles.sin()), 1).to(dtype)
            return last(torch.sin(second(torch.sin(first(waves))))) * window(self.rates, length)

        return Taps(make, None)

    @staticmethod
    def shapes(width: int, hidden: int, waves: int) -> list[Shape]:
        """Its parameters."""
        return [
            *matrix_shapes("first", hidden, 2 * waves, bias=True),
            *matrix_shapes("second", hidden, hidden, bias=True),
            *matrix_shapes("last", width, hidden),
        ]

    @staticmethod
    def step(prefix: str, width: int, length: int, hidden: int, waves: int) -> Step:
        """What it computes for ``length`` taps; names begin with ``prefix``."""
        return Beside(
            length,
            (
                pointwise(length * 2 * waves, operations=2),
                Products((f"{prefix}first.weight",)),
                pointwise(length * hidden, operations=2),
                Products((f"{prefix}second.weight",)),
                pointwise(length * hidden, operations=2),
                Products((f"{prefix}last.weight",)),
                pointwise(length * width, operations=3),
            ),
        )

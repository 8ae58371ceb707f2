"""What a long convolution keeps of the tokens so far."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .cache import Padding
from .filters import Taps
from .online_convolution import OnlineConvolution
from .short_convolution import ShortConvolution


class ConvolutionState:
    """Inputs of the short convolution, and the long one as it goes on, of the tokens seen so far.

    Args:
        batch: sequences.
        capacity: tokens that there is room for at first.
        convolution: the short one.

    Attributes:
        length: tokens seen, padding included.

    Example:
        >>> import torch
        >>> short = ShortConvolution(channels=6, taps=2)
        >>> state = ConvolutionState(1, 4, short)
        >>> x = state.short(torch.ones(1, 5, 6), short).detach()
        >>> x[:, 0, 0].tolist()
        [0.5, 0.75, 0.75, 0.75, 0.75]
        >>> state.long(x[..., :2], Taps(lambda length: torch.ones(length, 2), None))[:, 0, 0].tolist()
        [0.5, 1.25, 2.0, 2.75, 3.5]
    """

    def __init__(self, batch: int, capacity: int, convolution: ShortConvolution) -> None:
        weight, self._before = convolution.weight, convolution.taps - 1
        self._inputs = weight.new_zeros(self._before + max(1, capacity), batch, len(weight)).detach()
        self.length = 0
        self._online: OnlineConvolution | None = None
        self._layers: Sequence[Any] = (self,)

    def short(self, x: Tensor, convolution: ShortConvolution, padding: Padding | None = None) -> Tensor:
        """Add inputs of the short convolution, (batch, n, channels), and return what it makes of them.

        Args:
            x: of the tokens that follow.
            convolution: the short one.
            padding: where rows begin; None: all at the first token.

        Returns:
            (n, batch, channels).
        """
        start, end = self.length, self.length + x.shape[1]
        x = x if padding is None else padding.blanked(x, start)
        if self._before + end > len(self._inputs):
            grown = self._inputs.new_zeros(self._before + max(end, 2 * start), *self._inputs.shape[1:])
            grown[: self._before + start] = self._inputs[: self._before + start]
            self._inputs = grown
        self._inputs[self._before + start : self._before + end] = x.transpose(0, 1)
        self.length = end
        windows = self._inputs[start : self._before + end].unfold(0, self._before + 1, 1)
        return (windows * convolution.weight).sum(-1)

    def long(self, y: Tensor, taps: Taps) -> Tensor:
        """Add inputs (n, batch, width) of the long convolution, and return its outputs there."""
        if self._online is None:
            self._online = OnlineConvolution(taps.kernel, y.shape[1], len(self._inputs) - self._before)
            others = (getattr(layer, "_online", None) for layer in self._layers)
            OnlineConvolution.together([online for online in others if online is not None])
        return self._online.step(y[0])[None] if len(y) == 1 else self._online.extend(y)

    def join(self, layers: Sequence[Any]) -> None:
        """Be told what all layers keep: those that are long convolutions give their tiles together."""
        self._layers = layers

    def truncate(self, length: int) -> None:
        """Forget all but the first ``length`` tokens."""
        self.length = min(self.length, length)
        if self._online is not None:
            self._online.truncate(length)

    def select(self, rows: Tensor) -> None:
        """Keep these rows of the batch, in this order; a row may be taken several times."""
        self._inputs = self._inputs[:, rows.to(self._inputs.device)]
        if self._online is not None:
            self._online.select(rows)

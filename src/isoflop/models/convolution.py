"""Causal convolutions of whole sequences, by Fourier transforms.

Channels are apart from each other: every channel has a filter of its own. The time axis is the last one.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from scipy import fft as scipy_fft
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F

from ..core.cost import Work
from ..ledger import formulas
from .kernels import first_order, plain

# torch's annotations of Function are untyped; the class below is private and reached through a typed function.
# mypy: disable-error-code="no-untyped-call, no-any-return, misc"


@functools.lru_cache(256)
def transform_size(length: int) -> int:
    """Numbers of a transform in which ``length`` outputs of a causal convolution are free of what wraps around."""
    return int(scipy_fft.next_fast_len(2 * length - 1, real=True))


def causal_convolution(x: Tensor, taps: Tensor) -> Tensor:
    """z_i = sum over j <= i of x_j taps_(i-j), channel by channel: (batch, channels, length) -> same.

    By Fourier transforms of ``transform_size(length)`` real numbers: O(length log length).

    Args:
        x: (batch, channels, length), fp32 or float64.
        taps: (channels, n): the filter, from the tap of a position on itself; what it lacks is 0, more is not used.

    Example:
        >>> x = torch.tensor([[[1.0, 2.0, 3.0]]])
        >>> [round(z, 4) for z in causal_convolution(x, torch.tensor([[1.0, 0.5]])).flatten().tolist()]
        [1.0, 2.5, 4.0]
    """
    if plain():
        n, length = transform_size(x.shape[-1]), x.shape[-1]
        return torch.fft.irfft(torch.fft.rfft(x, n) * torch.fft.rfft(taps[:, :length], n), n)[..., :length]
    return _CausalConvolution.apply(x, taps)


def reference_causal_convolution(x: Tensor, taps: Tensor) -> Tensor:
    """By its definition."""
    out = torch.zeros_like(x)
    for lag in range(min(x.shape[-1], taps.shape[-1])):
        out[..., lag:] += x[..., : x.shape[-1] - lag] * taps[:, lag, None]
    return out


def convolution_work(batch: int, channels: int, length: int) -> Work:
    """What ``causal_convolution`` costs: a transform of every sequence and back, and one of every filter.

    The gradient is as many: of the output's gradient, back to the inputs', and back to the taps'. Transforms are
    counted by ``formulas.fft``; products of spectra are elementwise.
    """
    n = transform_size(length)
    one = formulas.fft([n], 2 * batch * channels + channels, real=True)
    spectra = formulas.products(0, batch * channels * n, itemsize=8)
    return Work(forward=one + spectra, backward=one + 2 * spectra)


class _CausalConvolution(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, taps: Tensor) -> Tensor:
        length = x.shape[-1]
        n = ctx.n = transform_size(length)
        ctx.taps = taps.shape[-1]
        spectrum, filters = torch.fft.rfft(x, n), torch.fft.rfft(taps[:, :length], n)
        ctx.save_for_backward(spectrum, filters)
        return torch.fft.irfft(spectrum * filters, n)[..., :length]

    @staticmethod
    @first_order
    def backward(ctx: Any, grad: Tensor) -> Any:
        """Both gradients, whether needed or not: a filter is trained wherever its inputs are."""
        spectrum, filters = ctx.saved_tensors
        length, n = grad.shape[-1], ctx.n
        errors = torch.fft.rfft(grad, n)
        grad_x = torch.fft.irfft(errors * filters.conj(), n)[..., :length]
        shared = (errors * spectrum.conj()).sum(0)
        grad_taps = torch.fft.irfft(shared, n)[:, : min(length, ctx.taps)]
        return grad_x, F.pad(grad_taps, (0, ctx.taps - grad_taps.shape[-1]))

"""Rules that treat every scalar alike: one kernel, run over pieces that fit in cache or as one fused pass."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Self

import torch
from torch import Tensor

from .averages import wide
from .method import Method
from .shards import local
from .state import OptimizerError

Numbers = tuple[float, ...]


CHUNK = 1 << 18
"""Scalars that an eager elementwise rule handles at a time: temporaries stay in cache, calls stay few.

1 MB of fp32, about a core's second-level cache. Chosen by timings that were not kept; ``benchmarks/optim_step.py``
shows what it gives."""


class Elementwise(Method):
    """A rule that treats every scalar alike, written once as ``kernel`` on flat tensors.

    Eagerly it runs over chunks that fit in cache; after ``compile()`` as one fused pass (seconds once, needs a C++ or
    Triton compiler).
    """

    @staticmethod
    def kernel(p: Tensor, g: Tensor, *rest: Any) -> None:
        """kernel(p, g, *buffers, numbers): update p and the buffers in place; p and g are as wide as the buffers.

        ``numbers`` are floats, or a tensor of them when compiled: so only tensor arithmetic with them, and
        complements like 1 - beta come ready-made, in double precision.
        """
        raise NotImplementedError

    _compile: bool = False

    def compile(self) -> Self:
        """Use one compiled pass from now on."""
        self._compile = True
        return self

    def apply(
        self,
        p: Tensor,
        buffers: Iterable[Tensor],
        numbers: Numbers,
        kernel: Callable[..., None] | None = None,
        gradient: Tensor | None = None,
    ) -> None:
        """Run ``kernel`` (by default the class's own) on ``p``, its gradient or ``gradient``, buffers and numbers."""
        gradient = p.grad if gradient is None else gradient
        assert gradient is not None
        here, g = local(p.detach()), local(gradient)
        if g.stride() != here.stride():
            g = torch.empty_like(here, dtype=g.dtype).copy_(g)
        tensors = [flat(t) for t in (here, g, *map(local, buffers))]
        if tensors[0].numel() == 0:
            return
        kernel = kernel or type(self).kernel
        if self._compile:
            _widened(_compiled(kernel), tensors, _as_tensor(numbers, wide(p.dtype), here.device))
            return
        for chunk in chunks(tensors):
            _widened(kernel, chunk, numbers)


@functools.cache
def _compiled(kernel: Callable[..., None]) -> Callable[..., None]:
    return torch.compile(kernel, dynamic=True, fullgraph=True)


@functools.lru_cache(maxsize=64)
def _as_tensor(numbers: Numbers, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(numbers, dtype=dtype, device=device)


def _widened(kernel: Callable[..., None], tensors: list[Tensor], numbers: Numbers | Tensor) -> None:
    p, g, *buffers = tensors
    dtype = wide(p.dtype)
    master = p.to(dtype)
    kernel(master, g.to(dtype), *buffers, numbers)
    if master is not p:
        p.copy_(master)


def add_scaled(x: Tensor, y: Tensor, a: float | Tensor) -> Tensor:
    """x <- x + a y, for a number ``a`` of a kernel."""
    return x.add_(y * a) if isinstance(a, Tensor) else x.add_(y, alpha=a)


def shifted(x: Tensor, y: Tensor, a: float | Tensor) -> Tensor:
    """x + a y, for a number ``a`` of a kernel; ``x`` itself where that is 0."""
    if isinstance(a, Tensor):
        return x + y * a
    return torch.add(x, y, alpha=a) if a else x


def add_quotient(x: Tensor, y: Tensor, z: Tensor, a: float | Tensor) -> Tensor:
    """x <- x + a y / z, for a number ``a`` of a kernel."""
    return x.add_(y / z * a) if isinstance(a, Tensor) else x.addcdiv_(y, z, value=a)


def chunks(tensors: list[Tensor]) -> Iterator[list[Tensor]]:
    """Aligned pieces of CHUNK scalars of flat tensors of equal length; everything at once off the CPU."""
    n = tensors[0].numel()
    size = CHUNK if tensors[0].device.type == "cpu" else n
    if n <= size:
        yield tensors
        return
    for start in range(0, n, size):
        yield [t[start : start + size] for t in tensors]


def flat(t: Tensor) -> Tensor:
    """A 1-D alias of ``t``'s storage, detached so that autograd sees no view; OptimizerError for gaps or overlap."""
    if t.is_contiguous():
        return t.view(-1).data
    strides = t.stride()
    order = sorted(range(t.ndim), key=lambda d: (-strides[d], t.shape[d]))
    dense = t.permute(order)
    if not dense.is_contiguous():
        raise OptimizerError("parameters, gradients and state must be dense in memory", fix="call .contiguous()")
    return dense.view(-1).data

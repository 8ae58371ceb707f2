"""Where a handwritten gradient pays: the weights' cast, rounded products, norm, gated unit (attention: ``attend.py``).

Each function has a plain form in torch's operations, ``reference_*``: the tests believe it, compiled code uses it (the
compiler fuses it better than by hand), and so does ``torch.func`` (which differentiates it in its own ways). Eager code
uses the handwritten form: fewer passes over memory, no copies of what autograd would keep; its gradient can be taken
once. Products run in the dtype of their operands (fp32 or bf16) and accumulate in fp32.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F

from ..core.contracts import Operands
from ..core.errors import UsageError

# torch's annotations of Function are untyped; every class below is private and reached through a typed function.
# mypy: disable-error-code="no-untyped-call, no-any-return, misc"


def plain() -> bool:
    """Whether the plain forms are wanted: while compiling, and inside ``torch.func``."""
    return torch.compiler.is_compiling() or functional()


def functional() -> bool:
    """Whether this runs inside ``torch.func`` (jvp, vmap, hessians)."""
    return torch._C._functorch.peek_interpreter_stack() is not None


class decoding(torch.no_grad):
    """As ``torch.no_grad``, and norms may round otherwise than in training, in fewer calls: for text, token by token.

    Not ``torch.inference_mode``, in which tensors of devices that are written in Python cannot be detached.

    Example:
        >>> with decoding():
        ...     torch.is_grad_enabled(), decoding.on()
        (False, True)
    """

    _here = threading.local()

    @classmethod
    def on(cls) -> bool:
        """Whether this thread is within one."""
        return getattr(cls._here, "depth", 0) > 0

    def __enter__(self) -> None:
        super().__enter__()
        self._here.depth = getattr(self._here, "depth", 0) + 1

    def __exit__(self, *raised: Any) -> None:
        self._here.depth -= 1
        super().__exit__(*raised)


def alone() -> bool:
    """Whether nothing follows this forward pass: no gradient, no step of decoding, nothing that is compiled."""
    return not (torch.is_grad_enabled() or decoding.on() or plain())


class inputs_alone:
    """Products made inside give no gradient to their weights: for who wants that of a few vectors, again and again.

    torch leaves out by itself what nobody asks for, but not within a handwritten gradient.

    Example:
        >>> weight = torch.ones(2, 3, requires_grad=True)
        >>> with inputs_alone():
        ...     gated_linear(torch.ones(1, 3), weight).requires_grad
        False
    """

    _here = threading.local()

    @classmethod
    def of(cls, weight: Tensor) -> Tensor:
        """The weight, apart from what it came from if this thread is within one."""
        return weight.detach() if getattr(cls._here, "depth", 0) else weight

    def __enter__(self) -> None:
        self._here.depth = getattr(self._here, "depth", 0) + 1

    def __exit__(self, *raised: object) -> None:
        self._here.depth -= 1


def first_order(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Refuse a graph of the gradient itself (``create_graph=True``), which a handwritten backward does not record."""

    @functools.wraps(backward)
    def checked(ctx: Any, *grads: Tensor) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError("a handwritten gradient can be taken once; use torch.func for higher derivatives")
        return backward(ctx, *grads)

    return checked


def fuse(weights: tuple[Tensor, ...], dtype: torch.dtype) -> Tensor:
    """Matrices (n_i, d), stacked to (sum n_i, d) in ``dtype``: one product instead of several, one cast a step."""
    if weights[0].dtype == dtype:
        return weights[0] if len(weights) == 1 else torch.cat(weights)
    if plain():
        return torch.cat([weight.to(dtype) for weight in weights])
    return _Fuse.apply(dtype, *weights)


class _Fuse(Function):
    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *weights: Tensor) -> Tensor:
        ctx.rows, ctx.dtype = [weight.shape[0] for weight in weights], weights[0].dtype
        fused = weights[0].new_empty(sum(ctx.rows), weights[0].shape[1], dtype=dtype)
        for part, weight in zip(fused.split(ctx.rows), weights, strict=True):
            part.copy_(weight)
        return fused

    @staticmethod
    @first_order
    def backward(ctx: Any, grad: Tensor) -> Any:
        return (None, *grad.to(ctx.dtype).split(ctx.rows))


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, operands: Operands | None = None, dtype: Any = None
) -> Tensor:
    """x weight' + bias, as every weight of a model is multiplied.

    Args:
        x: (..., columns).
        weight: (rows, columns), in the type of ``x``; with ``operands`` as it is kept.
        bias: (rows,).
        operands: what becomes of the operands of this product and of the two of its gradient.
        dtype: of those; None: that of ``x``.
    """
    if operands is None:
        return F.linear(x, weight, bias)
    if functional():
        raise UsageError(
            "torch.func differentiates products whose operands are rounded as if they were not",
            where="parametrization",
            fix="use an optimizer that needs a gradient alone, or round weights only",
        )
    apply = torch.compiler.disable(_RoundedLinear.apply)  # its roundings work on pieces that fit the cache
    found = apply(x, inputs_alone.of(weight), operands, dtype or x.dtype)
    return found if bias is None else found + bias


class _RoundedLinear(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, operands: Operands, dtype: torch.dtype) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.operands, ctx.dtype = operands, dtype
        rows = operands.of("forward", "x", x.flatten(0, -2), -1, dtype)
        found = F.linear(rows, operands.of("forward", "w", weight, -1, dtype))
        return found.view(*x.shape[:-1], len(weight))

    @staticmethod
    @first_order
    def backward(ctx: Any, grad: Tensor) -> Any:
        """Each operand is rounded anew along the axis that its product sums over."""
        x, weight = ctx.saved_tensors
        of, dtype, rows = ctx.operands.of, ctx.dtype, grad.flatten(0, -2)
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            grad_x = of("input", "g", rows, -1, dtype) @ of("input", "w", weight, 0, dtype)
            grad_x = grad_x.view(x.shape).to(x.dtype)
        if ctx.needs_input_grad[1]:
            grad_weight = of("weight", "g", rows, 0, dtype).t() @ of("weight", "x", x.flatten(0, -2), 0, dtype)
            grad_weight = grad_weight.to(weight.dtype)
        return grad_x, grad_weight, None, None


# ---------------------------------------------------------------- norm


def rms_norm(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """x / rms(x) * weight over the last dimension, computed in x's dtype and returned in ``dtype``.

    Zhang and Sennrich 2019, arXiv 1910.07467, equation 4.

    Args:
        x: (..., d).
        weight: (d,).
        eps: added to the mean square.
        dtype: of the result.

    Example:
        >>> rms_norm(torch.tensor([[3.0, 4.0]]), torch.ones(2), 0.0, torch.float32).square().mean().item()
        1.0
    """
    if plain():
        return reference_rms_norm(x, weight, eps, dtype)
    if decoding.on():
        return _quick_rms_norm(x, weight, eps, dtype)
    if not torch.is_grad_enabled():  # the same numbers without the calls that a gradient would need
        return _scaled(x, weight, _scale(x, eps), dtype)
    return _RmsNorm.apply(x, weight, eps, dtype)


def reference_rms_norm(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    return (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight).to(dtype)


def _scale(x: Tensor, eps: float) -> Tensor:
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()


def _scaled(x: Tensor, weight: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    return (x * scale).mul_(weight).to(dtype)


def _quick_rms_norm(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """In few calls, which is what one vector's norm costs: sqrt(|x|^2 + width eps) is a hypotenuse."""
    leg, unit = _legs(x.shape[-1], eps, x.dtype, x.device)
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True).hypot_(leg)
    return in_dtype((x * weight).div_(length.mul_(unit)), dtype)


@functools.lru_cache(64)
def _legs(width: int, eps: float, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """sqrt(width eps) and 1 / sqrt(width) as tensors: a Python number would be made one at each call."""
    leg, unit = ((width * eps) ** 0.5, width**-0.5)
    return torch.tensor(leg, dtype=dtype).to(device), torch.tensor(unit, dtype=dtype).to(device)


def in_dtype(x: Tensor, dtype: torch.dtype) -> Tensor:
    """``x.to(dtype)``, for those who call it for one vector after another."""
    return x if x.dtype == dtype else x.to(dtype)


class _RmsNorm(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        scale = _scale(x, eps)
        ctx.save_for_backward(x, weight, scale)
        return _scaled(x, weight, scale, dtype)

    @staticmethod
    @first_order
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, weight, scale = ctx.saved_tensors
        grad = grad.to(x.dtype, copy=True)
        unit = x * scale
        product = grad * unit
        grad_weight = product.flatten(0, -2).sum(0)
        mean = product.mul_(weight).mean(-1, keepdim=True)
        grad_x = grad.mul_(weight).addcmul_(unit, mean, value=-1).mul_(scale)
        return grad_x, grad_weight, None, None


# ---------------------------------------------------------------- gated unit


def gated_linear(x: Tensor, weight: Tensor) -> Tensor:
    """silu(x gate') * (x up') for (..., d) vectors and the joined ``weight`` (2f, d) = (gate, up): (..., f).

    Shazeer 2020, arXiv 2002.05202, equation 5.

    Args:
        x: (..., d).
        weight: (2f, d), gate above up.

    Example:
        >>> gated_linear(torch.ones(3, 2), torch.ones(8, 2)).shape
        torch.Size([3, 4])
    """
    if plain() or decoding.on():  # for few vectors at a time, one product and fewer calls are quicker
        return reference_gated_linear(x, weight)
    return _GatedLinear.apply(x, inputs_alone.of(weight))


def reference_gated_linear(x: Tensor, weight: Tensor) -> Tensor:
    gate, up = F.linear(x, weight).chunk(2, -1)
    return F.silu(gate) * up


class _GatedLinear(Function):
    """Gate and up are products of their own: halves of one product would be strided, and elementwise work on rows a
    power of two apart is up to twice as slow. Their gradients are written side by side, for one product each way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        gate, up = (F.linear(x, half) for half in weight.chunk(2))
        silu = F.silu(gate)
        ctx.save_for_backward(x, weight, gate, up, silu)
        return silu * up

    @staticmethod
    @first_order
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, weight, gate, up, silu = ctx.saved_tensors
        both = grad.new_empty(*grad.shape[:-1], len(weight))
        grad_gate, grad_up = both.chunk(2, -1)
        torch.mul(grad, silu, out=grad_up)
        torch.ops.aten.silu_backward.grad_input(grad * up, gate, grad_input=grad_gate)
        down = both @ weight if ctx.needs_input_grad[0] else None
        return down, both.flatten(0, -2).t() @ x.flatten(0, -2) if ctx.needs_input_grad[1] else None

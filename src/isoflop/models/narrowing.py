"""A model whose feed-forwards are cut to their first hidden units: the same weights, nothing copied that is not cut."""

from __future__ import annotations

from typing import Any, TypeVar

from torch import Tensor, nn

from ..core.contracts import PLACE, Pattern, as_matrix
from ..core.cost import Cost, Work
from ..core.errors import UsageError
from .decoding import twin_of
from .feed_forwards.nested import Nested
from .gated import GatedFeedForward
from .layers import Matrix
from .plain import PlainFeedForward
from .transformer import Transformer

M = TypeVar("M", bound=nn.Module)


def narrowed(model: Transformer, share: float) -> Transformer:
    """The model with a share of its feed-forwards' hidden units, the first ones; mixers and all else are the same.

    Its mixers' keys and values mean what the model's mean, so that both can continue one cache.

    Args:
        model: its feed-forwards are gated, plain or nested; of a nested one the share must be one of its widths.
        share: in (0, 1].

    Raises:
        UsageError: a feed-forward cannot be cut there; names the nearest legal share.

    Example, with ``model`` a Transformer of 257 tokens:
        >>> small = narrowed(model, 0.25)
        >>> before, after = (sum(p.numel() for p in each.parameters()) for each in (model, small))
        >>> after < before, small.head is model.head
        (True, True)
    """
    blocks = [twin_of(block, {"feed_forward": _narrow(block.feed_forward, share)}) for block in model.blocks]
    twin = twin_of(model, {"blocks": nn.ModuleList(blocks)})
    dropped = _weights(model) - _weights(twin)

    def work(batch: int, length: int, pattern: Pattern | None = None) -> Work:
        less = Cost(flops=2 * dropped * batch * length, executed=2 * dropped * batch * length)
        return model.flops(batch, length, pattern) - Work(forward=less, backward=2 * less)

    twin.flops = work
    return twin


def _weights(model: nn.Module) -> int:
    """Numbers of all matrices, each of which costs a multiply-add a token."""
    return sum(module.weight.numel() for module in model.modules() if isinstance(module, Matrix))


def _narrow(layer: Any, share: float) -> nn.Module:
    """A feed-forward with its first hidden units."""
    if isinstance(layer, Nested):
        return _of_segments(layer, share)
    if not isinstance(layer, GatedFeedForward | PlainFeedForward):
        what = f"a feed-forward {type(layer).__name__} has no hidden units of which the first could stand alone"
        raise UsageError(what, where="draft", fix="name another run, or use ngrams")
    hidden = max(1, round(share * len(layer.up.weight)))
    pieces = {
        name: _cut(child, slice(None) if name == "down" else slice(hidden), slice(hidden if name == "down" else None))
        for name, child in layer.named_children()
    }
    return twin_of(layer, pieces)


def _of_segments(layer: Nested, share: float) -> nn.Module:
    """The segments of the width that is a share of a nested layer's."""
    sizes = [len(segment.up.weight) for segment in layer.segments]  # type: ignore[union-attr,arg-type]
    shares = [sum(sizes[: i + 1]) / sum(sizes) for i in range(len(sizes))]
    nearest = min(range(len(sizes)), key=lambda i: abs(shares[i] - share))
    if abs(shares[nearest] - share) * sum(sizes) >= 1:
        legal = ", ".join(f"{each:.4g}" for each in shares)
        what = f"{share:g} of its hidden units is none of the model's widths (shares {legal})"
        raise UsageError(what, where="draft", fix=f"use {shares[nearest]:.4g}")
    twin = twin_of(layer, {"segments": nn.ModuleList(list(layer.segments)[: nearest + 1])})
    twin.variants, twin.taken = nearest + 1, nearest
    return twin


def _cut(matrix: nn.Module, rows: slice, columns: slice) -> Matrix:
    """A matrix without some rows and columns, its parametrization baked in."""
    assert isinstance(matrix, Matrix)
    own = getattr(matrix, PLACE)
    weight: Tensor = matrix.weight if own is None else as_matrix(own.finalize, matrix.weight)
    twin = twin_of(matrix, {})
    twin._modules.pop(PLACE, None)
    vars(twin)[PLACE] = None
    twin.weight = nn.Parameter(weight.detach()[rows, columns], requires_grad=False)
    twin.bias = None if matrix.bias is None else nn.Parameter(matrix.bias.detach()[rows], requires_grad=False)
    return twin

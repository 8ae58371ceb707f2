"""Models that compute in one of several variants: which one, for a while."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn

from ..core.contracts import Varies


def varying(model: nn.Module) -> list[Varies]:
    """The modules of a model that have several variants."""
    return [module for module in model.modules() if isinstance(module, Varies)]


@contextmanager
def in_variant(model: nn.Module, variant: int) -> Iterator[None]:
    """While entered, the model computes in one of its variants, whatever its steps say.

    Args:
        model: every module of it that has variants has this one.
        variant: from 0, the smallest.

    Example, with ``ctx`` a context of 257 tokens:
        >>> import torch
        >>> from isoflop.models.architectures.transformer import TransformerPart
        >>> nested = TransformerPart(d_model=32, feed_forward={"name": "nested", "widths": (16, 64)}).build(ctx)
        >>> with in_variant(nested, 0):
        ...     nested(torch.zeros(1, 3, dtype=torch.int64)).shape
        torch.Size([1, 3, 257])
    """
    with held([(module, variant) for module in varying(model)]):
        yield


@contextmanager
def held(variants: Sequence[tuple[Varies, int]]) -> Iterator[None]:
    """While entered, each module computes in its variant."""
    before = [(module, module.taken) for module, _ in variants]
    for module, variant in variants:
        module.take(variant)
    try:
        yield
    finally:
        for module, taken in before:
            module.take(taken)

"""Activation checkpointing: a block keeps its input alone, and the backward pass computes the rest again."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .layers import Matrix
from .variants import held, varying


def checkpointed(block: nn.Module, x: Tensor, *rest: Any) -> Tensor:
    """``block(x, *rest)``, of whose inside nothing is kept for the backward pass (Chen et al. 2016, arXiv 1604.06174).

    What a backward pass needs is complete before the block's last product, which is then not computed again; a
    parametrized weight may keep things in another order, so such a block is computed again to its end.
    ``pricing.Walk.block`` bills exactly that. Nothing in a block draws from torch's own generator, so that its state
    is not kept.

    Args:
        block: a module of a tensor (and whatever else).
        x: its input, the only one that is kept.
        rest: its other arguments, kept as they are.
    """
    plain = not any(module.parametrization is not None for module in block.modules() if isinstance(module, Matrix))
    now = [(module, module.variant) for module in varying(block)]  # by the backward pass it may be another
    done: Tensor = checkpoint(
        block,
        x,
        *rest,
        use_reentrant=False,
        preserve_rng_state=False,
        early_stop=plain,
        context_fn=lambda: (nullcontext(), held(now)),
    )
    return done

"""Local models of a loss around linearised outputs, by torch.func; parameters are pytrees of tensors.

Forward-mode derivatives go through attention only in its plain form, so everything here runs with the math backend.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor
from torch.func import grad, jvp, vjp
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..core.contracts import LossOf, Outputs


@contextmanager
def forward_mode() -> Iterator[None]:
    """The context in which models have forward-mode derivatives: plain attention, nothing compiled."""
    with sdpa_kernel(SDPBackend.MATH), torch.compiler.set_stance("force_eager"):
        yield


def pushed(function: Callable[[Any], Tensor], at: Any, v: Any) -> tuple[Tensor, Tensor]:
    """(function(at), its derivative at ``at`` along v)."""
    value, slope = jvp(function, (at,), (v,))  # type: ignore[misc]
    return value, slope


def model_gradient(
    outputs: Outputs, loss: LossOf, start: Any, shift: Any, form: Literal["quadratic", "prox_linear"] = "quadratic"
) -> Any:
    """Gradient at start + shift of the local model of loss(outputs(.)) around ``start``.

    ``prox_linear``: loss of the linearised outputs, J' loss'(z + J shift). ``quadratic``: its second-order model too,
    J' (loss'(z) + H J shift).
    """
    with forward_mode():
        z, moved = pushed(outputs, start, shift)
        if form == "prox_linear":
            at_outputs = grad(loss)(z + moved)
        else:
            slope, bend = pushed(grad(loss), z, moved)
            at_outputs = slope + bend
        return vjp(outputs, start)[1](at_outputs)[0]


def gauss_newton_product(outputs: Outputs, loss: LossOf, at: Any, v: Any) -> Any:
    """J' H J v, H the loss's Hessian in the outputs."""
    with forward_mode():
        z, moved = pushed(outputs, at, v)
        bend = pushed(grad(loss), z, moved)[1]
        return vjp(outputs, at)[1](bend)[0]

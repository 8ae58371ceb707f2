"""Generalised primal averaging of AdamW (Defazio et al. 2025, arXiv 2512.17131, algorithm 1)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import Tensor

from ...core.context import Context
from ...core.contracts import OptimizerPart
from ...core.cost import Cost
from ...core.documents import Later
from ...core.registry import Card, part
from ...core.roles import Shape
from ..elementwise import Numbers
from ..groups import Beta, Epsilon, Grid, elementwise, factor2, state_bytes
from ..method import BETA, UNIT, Limit, ParamsT, from_part, given, next_step
from ..primal_averaging import INTERPOLATION, Primal, advance, moves
from ..warmup_and_decay import Unit


class GPA(Primal):
    """AdamW steps on z, gradients at y = mu_y x + (1 - mu_y) z, evaluation at x <- mu_x x + (1 - mu_x) z.

    It takes the place of the outer step of DiLoCo, without its two loops: x moves smoothly behind z, and gradients are
    taken on the way. Unlike a schedule-free rule it takes an ordinary, decaying schedule. Decay shrinks z alone: y and
    x follow only through the average. With ``use_wd_on_y`` it shrinks y alone. Both as in the authors' code.

    Args:
        params: tensors, (name, tensor) pairs, or groups of them.
        lr: begin with AdamW's, 1e-3 where it has none.
        beta1: decay of the first moment.
        beta2: decay of the second moment.
        eps: added to the root of the second moment.
        weight_decay: decoupled, multiplied by the rate.
        train_interp_coeff: mu_y, in (0, 1]; the authors' 0.7.
        eval_interp_coeff: mu_x, in [0, 1]; the authors' 0.9967, as DiLoCo with 32 inner steps.
        use_wd_on_y: let decay shrink y, where gradients are taken, instead of z.

    Example:
        >>> optimizer = GPA(model.parameters(), lr=1e-3)
        >>> model(x).square().mean().backward(); optimizer.step()
        >>> with optimizer.evaluation_weights(): loss = model(x).square().mean()
    """

    limits: ClassVar[dict[str, Limit]] = {
        "beta1": BETA,
        "beta2": BETA,
        "train_interp_coeff": INTERPOLATION,
        "eval_interp_coeff": UNIT,
    }

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        train_interp_coeff: float = 0.7,
        eval_interp_coeff: float = 0.9967,
        use_wd_on_y: bool = False,
    ) -> None:
        super().__init__(**given(locals()))

    def interpolation(self, group: dict[str, Any]) -> float:
        return float(group["train_interp_coeff"])

    @staticmethod
    def kernel(y: Tensor, g: Tensor, z: Tensor, m: Tensor, v: Tensor, numbers: Numbers) -> None:
        *_, keep = numbers
        GPA.undecayed(y, g, z.mul_(keep), m, v, numbers)

    @staticmethod
    def decayed_at_y(y: Tensor, g: Tensor, z: Tensor, m: Tensor, v: Tensor, numbers: Numbers) -> None:
        """``kernel`` with decay of y."""
        *_, keep = numbers
        GPA.undecayed(y.mul_(keep), g, z, m, v, numbers)

    @staticmethod
    def undecayed(y: Tensor, g: Tensor, z: Tensor, m: Tensor, v: Tensor, numbers: Numbers) -> None:
        """What both have in common."""
        *steps, w1, w2, correction2, eps, _ = numbers
        m.lerp_(g, w1)
        v.lerp_(g * g, w2)
        advance(y, z, m / v.sqrt().mul_(correction2).add_(eps), tuple(steps))

    def update(self, group: dict[str, Any], p: Tensor, state: dict[str, Any]) -> None:
        t, lr, b1, b2 = next_step(state), float(group["lr"]), group["beta1"], group["beta2"]
        steps = moves(lr / (1 - b1**t), group["train_interp_coeff"], 1 - group["eval_interp_coeff"])
        keep = 1 - lr * group["weight_decay"]
        numbers = (*steps, 1 - b1, 1 - b2, (1 - b2**t) ** -0.5, group["eps"], keep)
        buffers = [state["z"], self.buffer(p, "exp_avg"), self.buffer(p, "exp_avg_sq")]
        self.apply(p, buffers, numbers, type(self).decayed_at_y if group["use_wd_on_y"] else None)


def reference(
    p: Tensor,
    gradients: Iterable[Tensor],
    *,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    train_interp_coeff: float,
    eval_interp_coeff: float,
    use_wd_on_y: bool,
) -> Iterator[Tensor]:
    """The training point after each step, plainly. x is only implied: mu_y x = y - (1 - mu_y) z."""
    y, z, m, v = p, p, torch.zeros_like(p), torch.zeros_like(p)
    for t, g in enumerate(gradients, start=1):
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        if use_wd_on_y:
            y = y - lr * weight_decay * y
        else:
            z = z - lr * weight_decay * z
        x = (y - (1 - train_interp_coeff) * z) / train_interp_coeff
        z = z - lr * m / (1 - beta1**t) / ((v / (1 - beta2**t)).sqrt() + eps)
        x = eval_interp_coeff * x + (1 - eval_interp_coeff) * z
        y = train_interp_coeff * x + (1 - train_interp_coeff) * z
        yield y


@part
class GPAPart(OptimizerPart):
    """Generalised primal averaging of AdamW."""

    card = Card(
        summary="AdamW with gradients taken between the iterate and its exponential average, evaluated at the average",
        paper="Defazio et al. 2025, arXiv 2512.17131",
        equation="y = mu_y x + (1 - mu_y) z; z <- (1 - lr wd) z - lr m_hat / (sqrt(v_hat) + eps); x <- mix(x, z, mu_x)",
        defaults="mu_y 0.7, mu_x 0.9967 (as DiLoCo with 32 inner steps), decay on z",
        differs="gradients stay as they are; evaluation restores the training point bit for bit",
        cost="no matmul FLOPs; 3 floats of state a parameter",
    )
    search: ClassVar[Grid] = {"lr": factor2(1.25e-4, 3.2e-2)}
    shardable = True

    lr: PositiveFloat = 4e-3
    """Peak learning rate."""
    beta1: Beta = 0.9
    """Decay of the first moment."""
    beta2: Beta = 0.95
    """Decay of the second moment."""
    eps: Epsilon = 1e-8
    """Added to the root of the second moment."""
    weight_decay: NonNegativeFloat = 0.1
    """Decoupled decay of matrices, multiplied by the learning rate."""
    train_interp_coeff: Annotated[float, Field(ge=1e-6, le=1)] = 0.7
    """Weight of the average in the gradient's point."""
    eval_interp_coeff: Unit = 0.98
    """Decay of the average."""
    use_wd_on_y: Annotated[bool, Later()] = False
    """Let decay shrink the gradient's point instead of the iterate."""

    def build(self, ctx: Context) -> GPA:
        return from_part(GPA, self, ctx)

    def cost(self, shapes: Sequence[Shape]) -> Cost:
        return elementwise(shapes, operations=19, floats=9)

    def state_bytes(self, shapes: Sequence[Shape]) -> int:
        return state_bytes(shapes, floats=3)

"""Products of MX operands: weights, activations and gradients, each rounded along the axis that is summed over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import PositiveInt, PrivateAttr
from torch import Tensor

from ...core.contracts import ParametrizationPart
from ...core.cost import Cost, Work
from ...core.registry import Card, part
from ...core.rng import Rng
from ...core.roles import Shape
from ..elements import Format, Rounding, element_of
from ..mx import Scale, damage, quantise
from ..weights import WeightForm, WeightPart, straight_through


@dataclass(frozen=True)
class MxOperands:
    """Which operands of a weight's three products are rounded, and how; see ``core.contracts.Operands``.

    Attributes:
        x: format of the activations; None: as they are.
        w: format of the weights.
        g: format of the gradients.
        backward: whether the products of the gradient have rounded operands.
        block: elements of a block.
        scale: rule of a block's scale.
        rounding: of elements.

    Example:
        >>> policy = MxOperands(x=None, w="mxfp4_e2m1", g=None)
        >>> policy.of("forward", "w", torch.tensor([[6.0, 0.9]]), -1, torch.float32).tolist()
        [[6.0, 1.0]]
    """

    x: str | None
    w: str | None
    g: str | None
    backward: bool = True
    block: int = 32
    scale: Scale = "floor"
    rounding: Rounding = "even"

    def of(self, product: str, operand: str, tensor: Tensor, axis: int, dtype: torch.dtype) -> Tensor:
        format = {"x": self.x, "w": self.w, "g": self.g}[operand]
        if format is None or (product != "forward" and not self.backward):
            return tensor.to(dtype)
        return quantise(
            tensor, format, axis=axis, block=self.block, scale=self.scale, rounding=self.rounding, out=dtype
        )


class MxWeight(WeightForm):
    """A weight whose products have MX operands; or, where it is no product's (a gain, a head), a rounded weight.

    Args:
        operands: the policy.
        product: whether its products round their operands.

    Example:
        >>> MxWeight(MxOperands(None, "mxint8", None), product=False).finalize(torch.tensor([[1.0, 0.3]])).tolist()
        [[1.0, 0.296875]]
    """

    def __init__(self, operands: MxOperands, product: bool) -> None:
        super().__init__()
        self.policy = operands
        self.operands = operands if product else None

    def trained(self, weight: Tensor) -> Tensor:
        return weight if self.operands is not None else straight_through(weight, self.finalize(weight))

    def finalize(self, weight: Tensor) -> Tensor:
        return self.policy.of("forward", "w", weight.detach(), -1, weight.dtype)

    def told(self, weight: Tensor) -> dict[str, float]:
        """Besides, the shares of blocks that become all alike, and whose largest number is cut."""
        policy, found = self.policy, super().told(weight)
        if policy.w is None:
            return found
        lost = damage(weight, policy.w, block=policy.block, scale=policy.scale, rounding=policy.rounding)
        return {**found, "collapsed": lost.collapsed, "saturated": lost.saturated}


@part
class MxPart(WeightPart):
    """Training with products in a microscaling format, emulated to the bit.

    All six operands of a linear layer are rounded by default: activations and weights forward, and gradients, weights
    and activations in both products backward, each along its own sum. ``backward=false`` rounds the forward alone;
    ``activations="none", gradients="none"`` weights alone. Both keep training stable where all six do not.

    Example:
        >>> MxPart(weights="mxfp4_e2m1", activations=None, gradients=None).policy.x is None
        True
    """

    weights: Format | None = "mxfp8_e4m3"
    """Format of weights; none: as they are."""
    activations: Format | None = "mxfp8_e4m3"
    """Format of what weights are multiplied with."""
    gradients: Format | None = "mxfp8_e4m3"
    """Format of the gradients of products' results."""
    backward: bool = True
    """Whether the products of the backward pass have rounded operands."""
    block: PositiveInt = 32
    """Elements that share a scale."""
    scale: Scale = "floor"
    """Rule of scales: floor (the standard's), rceil, ceil, even."""
    rounding: Rounding = "even"
    """Of elements: even, nearest (halves away from zero), floor (toward zero)."""
    _product: bool = PrivateAttr(True)
    card = Card(
        summary="Products of microscaling operands, in both passes: FP8, FP6, FP4 or integers, blocks with one scale",
        paper="OCP Microscaling Formats v1.0; in training: Rouhani et al. 2023, arXiv 2310.10537",
        equation="y = Q(x) Q(W)', dx = Q(g) Q(W), dW = Q(g)' Q(x), Q along the axis that is summed over",
        differs="emulated: rounded operands in the run's precision, sums in fp32; scales by the bits of a float",
        cost="rounding each operand, about 3 ns a number on a CPU; the products are not made faster here",
    )
    operations: ClassVar[int] = 12
    last: ClassVar[bool] = True

    @property
    def bits_in_use(self) -> float | None:
        return None if self.weights is None else element_of(self.weights).bits

    @property
    def policy(self) -> MxOperands:
        """What becomes of operands."""
        formats = self.activations, self.weights, self.gradients
        return MxOperands(*formats, self.backward, self.block, self.scale, self.rounding)

    def of(self, shape: Shape) -> ParametrizationPart | None:
        if super().of(shape) is None or shape.role == "hidden":
            return super().of(shape)
        copy = self.model_copy()
        copy._product = False
        return copy

    def build(self, rows: int, columns: int, rng: Rng) -> MxWeight:
        return MxWeight(self.policy, self._product)

    def made(self, tokens: int, rows: int, columns: int) -> Work:
        if not self._product:
            return super().made(tokens, rows, columns)
        w, x, g = rows * columns, tokens * columns, tokens * rows
        forward = w * (self.weights is not None) + x * (self.activations is not None)
        backward = forward + 2 * g * (self.gradients is not None) if self.backward else 0
        return Work(*(Cost(elementwise=self.operations * n, moved=12 * n) for n in (forward, backward)))

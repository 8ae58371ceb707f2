"""STR: weights above a trained threshold, by that much (Kusupati et al. 2020, arXiv 2002.03231)."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ...core.registry import Card, part
from ...core.rng import Rng
from ...core.roles import Shape, new_role
from ..weights import JointForm, Share, WeightPart, needs_horizon

THRESHOLD = new_role("threshold", decays=True)


def soft_threshold(weight: Tensor, s: Tensor, form: Literal["sigmoid", "exp"] = "sigmoid") -> Tensor:
    """sign(w) max(|w| - g(s), 0) with g = sigmoid or exp, differentiable in both.

    Args:
        weight: any shape.
        s: one number, any shape that broadcasts.
        form: g.

    Example:
        >>> soft_threshold(torch.tensor([1.0, -0.25]), torch.tensor(0.0)).tolist()
        [0.5, -0.0]
    """
    level = torch.sigmoid(s) if form == "sigmoid" else torch.exp(s)
    return weight.sign() * torch.relu(weight.abs() - level)


class SoftThreshold(JointForm):
    """A weight with a threshold of its own, trained and decayed.

    Args:
        part: its settings.

    Example:
        >>> soft = SoftThreshold(SoftThresholdPart(initial=0.0))
        >>> soft.finalize(torch.tensor([[1.0, -0.25]])).tolist()
        [[0.5, -0.0]]
    """

    role = THRESHOLD
    shifted: Tensor

    def __init__(self, part: SoftThresholdPart) -> None:
        super().__init__()
        self.part = part
        self.threshold = nn.Parameter(torch.full((1, 1), part.initial))
        self.register_buffer("shifted", torch.tensor(-1))  # a step is not taken twice when a run is taken up

    def at(self, step: int, horizon: int) -> None:
        """Shift all thresholds together, so that as many weights are zero as this step wants."""
        if self.part.sparsity is None or not self.training or not self.leads:
            return
        wanted = self.part.wanted(step, horizon)
        if wanted > 0 and step > int(self.shifted):
            self.shifted.fill_(step)
            self._shift(wanted)

    @torch.no_grad()
    def _shift(self, wanted: float) -> None:
        """A weight is zero where g^-1(|w|) <= s: the shift is a quantile of g^-1(|w|) - s."""
        gaps = []
        for own, module in self.members:
            size = module.weight.detach().abs().flatten()
            level = torch.logit(size.clamp(max=1 - 1e-6)) if self.part.form == "sigmoid" else size.log()
            gaps.append(level - own.threshold.flatten())
        every = torch.cat(gaps)
        shift = every.kthvalue(max(1, math.ceil(wanted * every.numel()))).values
        if bool(torch.isfinite(shift)):
            for own, _ in self.members:
                own.threshold.add_(shift)

    def trained(self, weight: Tensor) -> Tensor:
        return soft_threshold(weight, self.threshold, self.part.form)


@part
class SoftThresholdPart(WeightPart):
    """Soft threshold reparametrization: each matrix learns how sparse it is.

    Use it where the share of zeros of each layer should be found by training; with ``sparsity`` a controller keeps the
    share of all layers together on a ramp, and training only distributes it.

    Example:
        >>> round(SoftThresholdPart(sparsity=0.9).wanted(500, 1000), 3)
        0.867
    """

    initial: float = -8.0
    """First value of each threshold's s."""
    form: Literal["sigmoid", "exp"] = "sigmoid"
    """g: the threshold is g(s)."""
    sparsity: float | None = Field(None, gt=0, lt=1)
    """Share of zeros in the end; none: what decay and training make of it."""
    ramp: Share = 0.75
    """With ``sparsity``: share of the run after which it is reached."""
    card = Card(
        summary="Weights above a trained threshold a matrix, by that much; decay raises the thresholds",
        paper="Kusupati et al. 2020, arXiv 2002.03231, equation 4",
        equation="W' = sign(W) max(|W| - sigmoid(s), 0), s trained and decayed",
        defaults="s from -3200 with SGD and decay 2e-5: nothing is zero before the middle of training",
        differs="a controller for a wanted sparsity, which shifts all s together; decay is the optimizer's",
        cost="elementwise work on each weight, once a micro-batch; products are counted as dense",
    )
    search: ClassVar[dict[str, tuple[float, ...]]] = {"initial": (-12.0, -8.0, -5.0)}

    def wanted(self, step: int, horizon: int) -> float:
        """Share of zeros at a step: a cubic ramp, steep at first (Zhu and Gupta 2017, arXiv 1710.01878)."""
        done = min(1.0, (step + 1) / max(1.0, self.ramp * horizon))
        return (self.sparsity or 0.0) * (1 - (1 - done) ** 3)

    def check(self, recipe: Any) -> list[str]:
        if self.sparsity is not None:
            return needs_horizon(recipe, {"ramp": self.ramp})
        if not getattr(recipe.optimizer, "weight_decay", 0):
            what = "thresholds are raised by weight decay, and the optimizer has none"
            return [f"parametrization.sparsity: {what}; give a sparsity, or optimizer.weight_decay"]
        return []

    def build(self, rows: int, columns: int, rng: Rng) -> SoftThreshold:
        return SoftThreshold(self)

    def shapes(self, rows: int, columns: int) -> list[Shape]:
        return [Shape("threshold", THRESHOLD, (1, 1))]

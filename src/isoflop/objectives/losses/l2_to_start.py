"""A penalty on the distance to the weights that training began with, against forgetting (L2-SP; Li et al. 2018)."""

from __future__ import annotations

from typing import Any

from pydantic import PositiveFloat

from ...core.context import Context
from ...core.contracts import Batch, Loss, ModelPart, ObjectivePart
from ...core.cost import Work
from ...core.registry import Card, part
from ..pull import Pull, needs_start, pull_work


class L2ToStart:
    """strength / 2 |p - p_start|^2 over the trained parameters, which stands once in a step's mean loss.

    A step's loss is a mean over its units, so the penalty is added once for each unit: however a step is split into
    micro-batches, its mean holds it once.

    Example::

        penalty = L2ToStart(Pull(parameter_groups(model)), strength=0.01)  # model holds the weights to be kept to
        objective = Weighted([NextToken(model), penalty], [1.0, 1.0], ["next_token", "l2_to_start"])

    Args:
        pull: |p - p_start|^2 / 2.
        strength: what it is multiplied by.
    """

    def __init__(self, pull: Pull, strength: float = 0.01) -> None:
        self.pull, self.strength = pull, strength

    def loss(self, batch: Batch) -> Loss:
        return Loss(self.strength * batch.units * self.pull())


@part
class L2ToStartPart(ObjectivePart):
    """The distance to the weights that the run starts from; use it beside another objective, in ``weighted``."""

    strength: PositiveFloat = 0.01
    """What half the squared distance is multiplied by, beside a mean loss in nats a unit."""
    card = Card(
        summary="A penalty on the squared distance to the weights that the run starts from",
        paper="Li et al. 2018, arXiv 1802.01483 (L2-SP)",
        equation="strength / 2 |p - p_start|^2 over the trained parameters",
        defaults="strength 0.01 to 0.1",
        differs="every trained parameter is pulled, a new head's as well",
        cost="elementwise work and two copies of the trained parameters; no pass of the model",
    )

    def build(self, ctx: Context) -> L2ToStart:
        return L2ToStart(Pull(ctx.groups), self.strength)

    def work(self, model: ModelPart, batch: int, length: int, vocab_size: int) -> Work:
        return pull_work(model.trained_shapes(vocab_size))

    def check(self, recipe: Any) -> list[str]:
        return needs_start(recipe, type(self).name)

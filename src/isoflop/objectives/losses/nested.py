"""The joint loss of a model's nested variants: another objective's, in each of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ...core.context import Context
from ...core.contracts import (
    Batch,
    Filling,
    Likelihood,
    Loss,
    ModelPart,
    Objective,
    ObjectivePart,
    Owned,
    Pattern,
    Predicts,
    Stateful,
)
from ...core.cost import Cost, Work, add_spent
from ...core.registry import Card, part
from ...core.slots import ObjectiveSlot
from ...models.variants import in_variant, varying

SAME = frozenset({Likelihood, Predicts, Stateful})
"""What the joint loss can do where its objective can."""


class JointLoss:
    """The mean over the model's variants of another objective's loss, each on the whole batch.

    The terms that are logged are the losses by variant, "variant 0" the smallest. What is said of the model (its
    likelihood, what it predicts) is said of the whole one.

    Example::

        objective = JointLoss(NextToken(model), model)
        loss = objective.loss(batch)  # loss.total, loss.terms["variant 0"]

    Args:
        objective: its loss.
        policy: the model that it is of.
    """

    def __init__(self, objective: Objective, policy: Any) -> None:
        self.objective, self.policy = objective, policy
        if isinstance(objective, Likelihood):
            self.bound, self.nll, self.how = objective.bound, objective.nll, getattr(objective, "how", "")
        if isinstance(objective, Predicts):
            self.predict = objective.predict
        if isinstance(objective, Stateful):
            self.state_dict, self.load_state_dict = objective.state_dict, objective.load_state_dict

    def loss(self, batch: Batch) -> Loss:
        variants = max((module.variants for module in varying(self.policy)), default=1)
        terms, spent, kept, totals = {}, dict[str, Cost](), {}, []
        for variant in range(variants):
            with in_variant(self.policy, variant):
                loss = self.objective.loss(batch)
            totals.append(loss.total)
            terms[f"variant {variant}"] = loss.total.detach()
            kept = dict(loss.kept)  # of the last, which is the whole
            add_spent(spent, loss.spent)
        return Loss(torch.stack(totals).mean(), terms, spent, kept)


@part
class NestedLossPart(ObjectivePart):
    """Train all nested widths of a model in every step: dearer than to draw one, and without its noise.

    The model's feed-forward is ``nested``. With four widths of an eighth to the whole a step costs about twice as much
    as one of the whole alone.

    Example:
        >>> NestedLossPart().of.name
        'next_token'
    """

    of: ObjectiveSlot = "next_token"  # type: ignore[assignment]
    """The objective whose loss is meant."""
    card = Card(
        summary="The mean loss of a model's nested widths, each on the whole batch",
        paper="Devvrit et al. 2023, MatFormer, arXiv 2310.07707; Kusupati et al. 2022, arXiv 2205.13147",
        equation="1/G sum_i loss(model at width i)",
        defaults="weights of 1 for each width",
        differs="a mean, so that rates mean what they mean for one width",
        cost="a forward and a backward of each width",
    )

    @property
    def abilities(self) -> frozenset[type]:
        return SAME & self.of.abilities

    @property
    def pattern(self) -> Pattern | None:
        return self.of.pattern

    @property
    def patterns(self) -> tuple[Pattern | None, ...]:
        return self.of.patterns

    @property
    def runs_every_variant(self) -> bool:
        return True

    @property
    def extra_ids(self) -> int:
        return self.of.extra_ids

    @property
    def owned(self) -> Owned | None:
        return self.of.owned

    def owned_beside(self, models: Mapping[str, Any]) -> Owned | None:
        return self.of.owned_beside(models)

    def filling(self, vocab_size: int) -> Filling | None:
        return self.of.filling(vocab_size)

    def build(self, ctx: Context) -> JointLoss:
        return JointLoss(self.of.build(ctx), ctx.policy)

    def work(self, model: ModelPart, batch: int, length: int, vocab_size: int) -> Work:
        variants = (model.varied(variant) for variant in range(model.variants))
        return sum((self.of.work(variant, batch, length, vocab_size) for variant in variants), Work())

    def charges(self, recipe: Any) -> Mapping[str, Cost]:
        return {phase: cost * recipe.policy.variants for phase, cost in self.of.charges(recipe).items()}

    def once(self, recipe: Any) -> Mapping[str, Cost]:
        return self.of.once(recipe)

    def check(self, recipe: Any) -> list[str]:
        if recipe.policy.variants > 1:
            return []
        return ["objective: nested needs a model of several widths; use model.feed_forward=nested, or its `of` alone"]

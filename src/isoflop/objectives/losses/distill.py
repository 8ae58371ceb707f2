"""Distillation: learn a teacher's whole distribution of the next token (Hinton et al. 2015, arXiv 1503.02531)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field, PositiveFloat

from ...core.context import Context
from ...core.contracts import Documents, Likelihood, Loss, ObjectivePart, TokenBatch
from ...core.cost import Cost
from ...core.registry import Card, part
from ..linear_cross_entropy import cap_of, linear_cross_entropy
from ..linear_distillation import linear_distillation


class Distill:
    """(1 - weight) (-log q(target)) + weight T^2 KL(p_T || q_T), summed over the targets that count, in nats.

    Example::

        objective = Distill(model, teacher, temperature=2.0, weight=0.5)
        loss = objective.loss(batch)  # loss.terms["soft"], loss.spent["teacher"]

    Args:
        policy: a causal ``Model``, the student.
        teacher: a frozen causal ``Model`` of the same vocabulary, and of any width.
        temperature: T, by which both models' logits are divided in the soft loss.
        weight: of the soft loss.
    """

    bound = False

    def __init__(self, policy: Any, teacher: Any, temperature: float = 1.0, weight: float = 0.5) -> None:
        self.policy, self.teacher, self.temperature, self.weight = policy, teacher, temperature, weight

    def loss(self, batch: TokenBatch) -> Loss:
        documents = batch.columns.get("documents")
        seen = None if documents is None else Documents(documents)
        with torch.no_grad():
            taught = self.teacher.hidden(batch.inputs, seen), self.teacher.head
        mixed, hard, soft = linear_distillation(
            self.policy.hidden(batch.inputs, seen),
            self.policy.head,
            taught,
            batch.targets,
            batch.mask,
            temperature=self.temperature,
            share=self.weight,
            caps=(cap_of(self.policy), cap_of(self.teacher)),
        )
        spent = {"teacher": self.teacher.flops(*batch.inputs.shape).forward}
        return Loss(mixed, terms={"hard": hard.detach(), "soft": soft.detach()}, spent=spent)

    def nll(self, batch: TokenBatch) -> Loss:
        """The student's own -log p of the batch's targets; the teacher is not asked."""
        hidden = self.policy.hidden(batch.inputs)
        total = linear_cross_entropy(hidden, self.policy.head, batch.targets, batch.mask, cap=cap_of(self.policy))
        return Loss(total, spent={"evaluation": self.policy.flops(*batch.inputs.shape).forward})


@part
class DistillPart(ObjectivePart):
    """The forward KL divergence from ``models.teacher``, mixed with the cross-entropy of the next token."""

    temperature: PositiveFloat = 1.0
    """Both models' logits are divided by it in the soft loss; higher ones show more of what the teacher rules out."""
    weight: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of the soft loss; the rest is the cross-entropy of the next token."""
    card = Card(
        summary="Learn a teacher's distribution of the next token, beside the token itself",
        paper="Hinton et al. 2015, arXiv 1503.02531",
        equation="(1 - weight) (-log q(x)) + weight T^2 KL(p_T || q_T), p_T and q_T at temperature T",
        defaults="T from 1 to 20, and more weight on the soft loss than on the hard one",
        differs="the whole vocabulary, computed as training goes; weights sum to 1",
        cost="one forward of the teacher beside the student's forward and backward, in phase `teacher`",
    )
    provides = frozenset({Likelihood})
    uses: ClassVar[tuple[str, ...]] = ("teacher",)

    def build(self, ctx: Context) -> Distill:
        return Distill(ctx.policy, ctx.models["teacher"], self.temperature, self.weight)

    def charges(self, recipe: Any) -> Mapping[str, Cost]:
        teacher = recipe.models["teacher"]
        work = teacher.model.work(recipe.train.batch, recipe.train.length, teacher.vocab_size, self.pattern)
        return {"teacher": work.forward}

    def check(self, recipe: Any) -> list[str]:
        teacher = recipe.models.get("teacher")
        if teacher is None or teacher.vocab_size == recipe.vocab_size:
            return []
        what = f"{teacher.run} knows {teacher.vocab_size} ids, this recipe has {recipe.vocab_size}"
        return [f"models.teacher: {what}; teacher and student need one vocabulary"]

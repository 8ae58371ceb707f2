"""Distillation: learn a teacher's whole distribution of the next token (Hinton et al. 2015, arXiv 1503.02531).

Several teachers are an ensemble: their distributions' mean is learned. A student that was cut from its teacher may also
learn the vectors before the head (Muralidharan et al. 2024, arXiv 2407.14679).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import Tensor

from ...core.context import Context
from ...core.contracts import OWNED, Documents, Likelihood, Loss, ModelPart, ObjectivePart, Owned, TokenBatch
from ...core.cost import Cost, Work, add_spent
from ...core.documents import Later
from ...core.registry import Card, part
from ...core.roles import width_of
from ...models.cost import pointwise
from ...models.layers import exact
from ...models.projection import OwnsProjection
from ..linear_cross_entropy import cap_of, linear_cross_entropy
from ..linear_distillation import linear_distillation


class Distill:
    """(1 - weight) (-log q(target)) + weight T^2 D(p_T, q_T) + hidden |h' - h|^2 / width, over the targets that count.

    D is KL(p_T || q_T), or mixed with the reverse; all is summed, in nats.

    Example::

        objective = Distill(model, teacher, temperature=2.0, weight=0.5)
        loss = objective.loss(batch)  # loss.terms["soft"], loss.spent["teacher"]
        objective = Distill(model, [teacher, teacher])  # an ensemble, here of one and the same

    Args:
        policy: a causal ``Model``, the student.
        teacher: a frozen causal ``Model`` of the same vocabulary, and of any width; or several.
        temperature: T, by which all models' logits are divided in the soft loss.
        weight: of the soft loss.
        reverse: share of KL(q_T || p_T) in it.
        hidden: of the vectors' loss; where the only teacher is wider or narrower, the policy's ``owned`` maps to it.
    """

    bound = False

    def __init__(
        self,
        policy: Any,
        teacher: Any | Sequence[Any],
        temperature: float = 1.0,
        weight: float = 0.5,
        reverse: float = 0.0,
        hidden: float = 0.0,
    ) -> None:
        self.policy, self.temperature, self.weight = policy, temperature, weight
        self.teachers = tuple(teacher) if isinstance(teacher, Sequence) else (teacher,)
        self.reverse, self.hidden = reverse, hidden

    def loss(self, batch: TokenBatch) -> Loss:
        documents = batch.columns.get("documents")
        seen = None if documents is None else Documents(documents)
        with torch.no_grad():
            taught = [(teacher.hidden(batch.inputs, seen), teacher.head) for teacher in self.teachers]
        vectors = self.policy.hidden(batch.inputs, seen)
        mixed, hard, soft = linear_distillation(
            vectors,
            self.policy.head,
            taught,
            batch.targets,
            batch.mask,
            temperature=self.temperature,
            share=self.weight,
            reverse=self.reverse,
            caps=tuple(cap_of(model) for model in (self.policy, *self.teachers)),
        )
        terms, spent = {"hard": hard.detach(), "soft": soft.detach()}, dict[str, Cost]()
        if self.hidden:
            apart = self._apart(vectors, taught[0][0], batch.mask)
            mixed, terms["hidden"] = mixed + self.hidden * apart, apart.detach()
        for teacher in self.teachers:
            add_spent(spent, {"teacher": teacher.flops(*batch.inputs.shape).forward})
        return Loss(mixed, terms=terms, spent=spent)

    def _apart(self, vectors: Tensor, taught: Tensor, mask: Tensor | None) -> Tensor:
        """Mean square of what lies between the student's vectors, mapped, and the teacher's, summed over targets."""
        mapped = getattr(self.policy, OWNED, torch.nn.Identity())(vectors)
        squares = (exact(mapped) - exact(taught)).square().mean(-1)
        return (squares if mask is None else squares * mask).sum()

    def nll(self, batch: TokenBatch) -> Loss:
        """The student's own -log p of the batch's targets; the teacher is not asked."""
        hidden = self.policy.hidden(batch.inputs)
        total = linear_cross_entropy(hidden, self.policy.head, batch.targets, batch.mask, cap=cap_of(self.policy))
        return Loss(total, spent={"evaluation": self.policy.flops(*batch.inputs.shape).forward})


@part
class DistillPart(ObjectivePart):
    """The divergence from a teacher, or from several as an ensemble, mixed with the cross-entropy of the next token.

    Example:
        >>> DistillPart(teachers=("first", "second"), reverse=0.5).uses
        ('first', 'second')
    """

    temperature: PositiveFloat = 1.0
    """Logits are divided by it in the soft loss; higher ones show more of what the teacher rules out."""
    weight: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of the soft loss; the rest is the cross-entropy of the next token."""
    reverse: Annotated[float, Field(ge=0, le=1), Later()] = 0.0
    """Share of KL(student || teacher) in the soft loss: 0 covers all that the teacher holds possible, 1 seeks what it
    holds likeliest."""
    hidden: Annotated[NonNegativeFloat, Later()] = 0.0
    """Weight of the mean squared difference from the teacher's vectors before the head, through a trained map where
    widths differ; one teacher only."""
    teachers: Annotated[tuple[str, ...], Field(min_length=1), Later()] = ("teacher",)
    """Names of the teachers in ``models``; several are an ensemble."""
    card = Card(
        summary="Learn a teacher's distribution of the next token, beside the token itself; several are an ensemble",
        paper="Hinton et al. 2015, arXiv 1503.02531; vectors: Muralidharan et al. 2024, arXiv 2407.14679",
        equation="(1 - weight) (-log q(x)) + weight T^2 ((1 - reverse) KL(p_T || q_T) + reverse KL(q_T || p_T)) "
        "+ hidden |M h - h_p|^2 / width, p_T and q_T at temperature T, p_T the teachers' mean",
        defaults="T from 1 to 20, and more weight on the soft loss than on the hard one",
        differs="the whole vocabulary, computed as training goes; weights sum to 1; the last vectors, no layer's",
        cost="one forward of each teacher beside the student's forward and backward, in phase `teacher`",
    )
    provides = frozenset({Likelihood})

    @property
    def uses(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.teachers

    def owned_beside(self, models: Mapping[str, Any]) -> Owned | None:
        teacher = models.get(self.teachers[0])
        if not self.hidden or teacher is None:
            return None
        return OwnsProjection(width_of(teacher.model.shapes(1)))

    def build(self, ctx: Context) -> Distill:
        teachers = [ctx.models[name] for name in self.teachers]
        return Distill(ctx.policy, teachers, self.temperature, self.weight, self.reverse, self.hidden)

    def work(self, model: ModelPart, batch: int, length: int, vocab_size: int) -> Work:
        own, whole = model.treatment.owned, super().work(model, batch, length, vocab_size)
        if not self.hidden or not isinstance(own, OwnsProjection):
            return whole
        vectors = batch * length
        return whole + own.work(model, vectors, vocab_size) + pointwise(vectors * own.wanted, operations=3)

    def charges(self, recipe: Any) -> Mapping[str, Cost]:
        spent: dict[str, Cost] = {}
        for name in self.teachers:
            teacher = recipe.models[name]
            work = teacher.model.work(recipe.train.batch, recipe.train.length, teacher.vocab_size, self.pattern)
            add_spent(spent, {"teacher": work.forward})
        return spent

    def check(self, recipe: Any) -> list[str]:
        problems = []
        if len(set(self.teachers)) < len(self.teachers):
            problems.append("objective.teachers: names one twice; give each another name in models")
        if self.hidden and len(self.teachers) > 1:
            problems.append("objective.hidden: vectors are those of one teacher, not of several; name one teacher")
        for name in self.teachers:
            teacher = recipe.models.get(name)
            if teacher is not None and teacher.vocab_size != recipe.vocab_size:
                what = f"{teacher.run} knows {teacher.vocab_size} ids, this recipe has {recipe.vocab_size}"
                problems.append(f"models.{name}: {what}; teacher and student need one vocabulary")
        return problems

"""A weighted sum of objectives: each sees the whole batch, each is charged what it did."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

import torch
from pydantic import Field, PositiveFloat

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
from ...core.documents import Section
from ...core.registry import Card, part
from ...core.slots import ObjectiveSlot

FIRST = frozenset({Likelihood, Predicts})
"""What the sum can do where its first objective can."""


class Weighted:
    """sum_i weight_i loss_i, a sum over the batch's units as each of the losses is.

    What is said of the model (its likelihood, what it predicts) is what the first objective says. The terms that are
    logged are the losses themselves, without their weights, and what each logs itself as "name.term". The first
    objective draws what it would draw alone, every other one from a stream of its own.

    Example::

        objective = Weighted([NextToken(model), Distill(model, teacher)], [1.0, 0.5], ["next_token", "distill"])
        loss = objective.loss(batch)  # loss.total, loss.terms["distill"], loss.spent["teacher"]

    Args:
        objectives: at least one; all are built on one policy.
        weights: one each.
        names: one each, all different: what the terms are called.
    """

    def __init__(self, objectives: Sequence[Objective], weights: Sequence[float], names: Sequence[str]) -> None:
        self.objectives, self.weights, self.names = tuple(objectives), tuple(weights), tuple(names)
        first = self.objectives[0]
        if isinstance(first, Likelihood):
            self.bound, self.nll, self.how = first.bound, first.nll, getattr(first, "how", "")
        if isinstance(first, Predicts):
            self.predict = first.predict
        self._stateful = {n: o for n, o in zip(names, objectives, strict=True) if isinstance(o, Stateful)}
        if self._stateful:
            self.state_dict, self.load_state_dict = self._state, self._load

    def loss(self, batch: Batch) -> Loss:
        terms: dict[str, torch.Tensor] = {}
        losses = [objective.loss(_drawn(batch, number)) for number, objective in enumerate(self.objectives)]
        for name, loss in zip(self.names, losses, strict=True):
            terms[name] = loss.total.detach()
            terms |= {f"{name}.{inner}": term for inner, term in loss.terms.items()}
        total = sum(weight * loss.total for weight, loss in zip(self.weights, losses, strict=True))
        return Loss(torch.as_tensor(total), terms, _summed(loss.spent for loss in losses), losses[0].kept)

    def _state(self) -> dict[str, Any]:
        return {name: objective.state_dict() for name, objective in self._stateful.items()}

    def _load(self, state: dict[str, Any], /) -> None:
        for name, objective in self._stateful.items():
            objective.load_state_dict(state[name])


def _drawn(batch: Batch, number: int) -> Batch:
    """The batch with random numbers of objective ``number``'s own; the first one's are the batch's."""
    if number == 0 or batch.draws is None:
        return batch
    return batch.drawing(replace(batch.draws, root=batch.draws.root(f"objective {number}")))


def _summed(bills: Iterable[Mapping[str, Cost]]) -> dict[str, Cost]:
    spent: dict[str, Cost] = {}
    for bill in bills:
        add_spent(spent, bill)
    return spent


class Term(Section):
    """One of the summed objectives."""

    objective: ObjectiveSlot
    weight: PositiveFloat = 1.0
    """What its loss is multiplied by."""


@part
class WeightedPart(ObjectivePart):
    """Several objectives at once, each with a weight; the first one is what the model is measured by."""

    terms: Annotated[tuple[Term, ...], Field(min_length=1)]
    """The objectives, e.g. [{objective = "next_token"}, {objective = "distill", weight = 0.5}]."""
    card = Card(
        summary="A weighted sum of objectives",
        equation="sum_i weight_i loss_i",
        differs="losses are sums over the same units, so that weights mean the same whatever the batch",
        cost="that of each objective, a forward and a backward of the model each",
    )

    @property
    def abilities(self) -> frozenset[type]:
        kept = frozenset({Stateful} if any(Stateful in term.objective.abilities for term in self.terms) else ())
        return kept | FIRST & self.terms[0].objective.abilities

    @property
    def pattern(self) -> Pattern | None:
        return self.terms[0].objective.pattern

    @property
    def patterns(self) -> tuple[Pattern | None, ...]:
        return tuple(pattern for term in self.terms for pattern in term.objective.patterns)

    @property
    def runs_every_variant(self) -> bool:
        return any(term.objective.runs_every_variant for term in self.terms)

    @property
    def extra_ids(self) -> int:
        return max(term.objective.extra_ids for term in self.terms)

    @property
    def owned(self) -> Owned | None:
        return next((term.objective.owned for term in self.terms if term.objective.owned is not None), None)

    def owned_beside(self, models: Mapping[str, Any]) -> Owned | None:
        each = (term.objective.owned_beside(models) for term in self.terms)
        return next((own for own in each if own is not None), None)

    def filling(self, vocab_size: int) -> Filling | None:
        return self.terms[0].objective.filling(vocab_size)

    def names(self) -> list[str]:
        """What each objective's terms are called: its name, numbered from the second of a kind on."""
        seen: Counter[str] = Counter()
        found = []
        for term in self.terms:
            name = term.objective.name
            seen[name] += 1
            found.append(name if seen[name] == 1 else f"{name} {seen[name]}")
        return found

    def build(self, ctx: Context) -> Weighted:
        live = [term.objective.build(ctx) for term in self.terms]
        return Weighted(live, [term.weight for term in self.terms], self.names())

    def work(self, model: ModelPart, batch: int, length: int, vocab_size: int) -> Work:
        each = [term.objective.work(model, batch, length, vocab_size) for term in self.terms]
        return sum(each, Work())

    def charges(self, recipe: Any) -> Mapping[str, Cost]:
        return _summed(term.objective.charges(recipe) for term in self.terms)

    def once(self, recipe: Any) -> Mapping[str, Cost]:
        return _summed(term.objective.once(recipe) for term in self.terms)

    def check(self, recipe: Any) -> list[str]:
        owning = [term.objective.name for term in self.terms if term.objective.owned_beside(recipe.models) is not None]
        if len(owning) > 1:
            return [f"objective.terms: {' and '.join(owning)} add parameters to the model each; use one of them"]
        adding = [term.objective.name for term in self.terms if term.objective.extra_ids]
        if len(adding) < 2:
            return []
        return [f"objective.terms: {' and '.join(adding)} add token ids each, and would take the same; use one of them"]

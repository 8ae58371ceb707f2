"""Elastic weight consolidation: hold a weight back by how much the old text depends on it (Kirkpatrick et al. 2017).

What a weight is worth to the old text is its Fisher information there: the mean square of d log p(y) / d p_j, with y
drawn from the model's own predictions (not the text's tokens, which would give the "empirical" Fisher). Given the text,
the draws of a window's targets are independent and their scores have mean zero, so the square of the whole window's
gradient is, in expectation, the sum of its targets' squares: one backward pass a window measures all of them. To second
order, and if no two weights' effects overlapped, 1/2 sum_j F_j (p_j - p_j^start)^2 is then the divergence
KL(start || model) of the predictions of one token of the old text, in nats.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from ...core.context import Context
from ...core.contracts import Batch, Draws, Loss, ModelPart, ObjectivePart, Stateful, TokenBatch
from ...core.cost import Cost, Work
from ...core.errors import DataError
from ...core.registry import Card, part
from ...core.rng import Rng
from ...core.roles import Shape
from ...core.slots import SourceSlot
from ...optim.groups import elementwise
from ..pull import Pull, needs_start, pull_work
from .next_token import NextToken


class EWC:
    """strength / 2 sum_j F_j (p_j - p_j^start)^2, which stands once in a step's mean loss (see ``L2ToStart``).

    F is estimated by the first loss, which says what that cost in ``spent``: before it nothing has been trained. It is
    state, so that a run that goes on neither estimates nor pays again.

    Example::

        penalty = EWC(Pull(parameter_groups(model)), model, old_windows, Rng(0), count=64, strength=1.0)
        objective = Weighted([NextToken(model), penalty], [1.0, 1.0], ["next_token", "ewc"])

    Args:
        pull: the squared distance to the start.
        policy: a causal ``Model`` with the pull's parameters.
        windows: batches of the old text, one window each.
        rng: what the targets are drawn by.
        count: windows that are used.
        strength: what the penalty is multiplied by.
    """

    def __init__(
        self, pull: Pull, policy: Any, windows: Iterator[TokenBatch], rng: Rng, count: int = 64, strength: float = 1.0
    ) -> None:
        self.pull, self.policy, self.windows, self.rng = pull, policy, windows, rng
        self.count, self.strength = count, strength
        self.factors: list[Tensor] | None = None

    def loss(self, batch: Batch) -> Loss:
        spent: dict[str, Cost] = {}
        if self.factors is None:
            self.factors, cost = self.fisher()
            spent["scoring"] = cost
        return Loss(self.strength * batch.units * self.pull(self.factors), spent=spent)

    def fisher(self) -> tuple[list[Tensor], Cost]:
        """The diagonal of the Fisher information of one target, at the present weights, and what estimating it cost.

        Raises:
            DataError: no window predicts anything.
        """
        objective, params = NextToken(self.policy), self.pull.params
        sums, units, cost = [torch.zeros_like(p) for p in params], 0, Cost()
        shapes = [Shape(name, "hidden", tuple(p.shape)) for name, p in zip(self.pull.names, params, strict=True)]
        for number in range(self.count):
            window = next(self.windows).drawing(Draws(self.rng, number))
            with torch.enable_grad():
                total = objective.loss(objective.resample(window)).total
                gradients = torch.autograd.grad(total, params, allow_unused=True)
            for accumulated, gradient in zip(sums, gradients, strict=True):
                if gradient is not None:
                    accumulated.addcmul_(gradient, gradient)
            units += window.units
            cost += window_cost(self.policy.flops(*window.inputs.shape), shapes)
        if not units:  # all factors would be 0, and nothing held
            what = f"none of its first {self.count} windows predicts anything: they lie within prompts"
            raise DataError(what, where="objective.source", fix="give objective.windows or train.length more")
        return [accumulated / units for accumulated in sums], cost

    def state_dict(self) -> dict[str, Any]:
        return {} if self.factors is None else dict(zip(self.pull.names, self.factors, strict=True))

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        self.factors = None
        if state:
            params = zip(self.pull.names, self.pull.params, strict=True)
            self.factors = [state[name].to(p.device) for name, p in params]


def window_cost(work: Work, shapes: Sequence[Shape]) -> Cost:
    """What the square of one window's gradient costs: a forward pass to draw targets, one more and one back for it."""
    return work.forward + work.total + elementwise(shapes, operations=2, floats=3)


@part
class EWCPart(ObjectivePart):
    """What the start's text depends on is held; use it beside another objective, in ``weighted``."""

    source: SourceSlot
    """The old text, which the start was trained on; its training part is read."""
    windows: PositiveInt = 64
    """Windows of it, each of train.length tokens, by which weights are judged."""
    strength: PositiveFloat = 1.0
    """What the penalty is multiplied by, beside a mean loss in nats a unit; 1: a nat of divergence costs a nat."""
    card = Card(
        summary="A penalty on the distance to the start, weight by weight as the old text depends on it",
        paper="Kirkpatrick et al. 2017, arXiv 1612.00796",
        equation="strength / 2 sum_j F_j (p_j - p_j^start)^2, F_j = E (d log p(y) / d p_j)^2, y drawn from the model",
        defaults="lambda 1e2 to 1e4, with F of a whole example",
        differs="F is that of one target, not of a whole example; one old text, not one penalty for each of several",
        cost="once 2 forwards and 1 backward a window, in phase `scoring`; elementwise work; 3 copies of the weights",
    )
    provides: ClassVar[frozenset[type]] = frozenset({Stateful})

    def build(self, ctx: Context) -> EWC:
        own = ctx.having(batch=1, rng=ctx.rng("ewc"))
        windows: Any = self.source.build(own).batches(own)
        return EWC(Pull(ctx.groups), ctx.policy, windows, own.rng, self.windows, self.strength)

    def work(self, model: ModelPart, batch: int, length: int, vocab_size: int) -> Work:
        return pull_work(model.trained_shapes(vocab_size), factors=True)

    def once(self, recipe: Any) -> Mapping[str, Cost]:
        shapes = recipe.policy.trained_shapes(recipe.vocab_size)
        work = recipe.policy.work(1, recipe.train.length, recipe.vocab_size)
        return {"scoring": window_cost(work, shapes) * self.windows}

    def check(self, recipe: Any) -> list[str]:
        problems = needs_start(recipe, type(self).name)
        if self.source.vocab_size != recipe.source.vocab_size:
            problems.append("objective.source: has ids of another kind than source; both need one vocabulary")
        return problems

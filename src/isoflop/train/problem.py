"""One step as an optimizer sees it, with its bill."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from ..core.context import Context
from ..core.contracts import (
    Batch,
    Draws,
    Linearizing,
    Loss,
    LossOf,
    Objective,
    Optimizer,
    Outcome,
    Outputs,
    Resampling,
)
from ..core.cost import Cost, Work, add_spent
from ..core.errors import NumericsError, UsageError
from ..core.torch_rule import TorchRule
from .parts import Penalty


class StepProblem:
    """The loss of one step's micro-batches as a function of the policy's weights.

    It owns accumulation (the mean over all units of the step, however they are split), clipping, the check that loss
    and gradient are finite (nothing that is not may reach the weights), and the bill. The mean over no units at all (a
    step of prompts) is 0, and so is its gradient.

    Args:
        objective: its loss is minimised.
        ctx: gives the trained parameters and the root of the random numbers.
        batches: the step's micro-batches.
        clip: largest 2-norm of the gradient; 0 does not clip.
        step: the step's number, which keys what is drawn at random in it.
        ahead: gives the micro-batches of the next step, without taking them from the stream.
        work: what one pass of the objective over one micro-batch costs.
        penalties: of parametrizations, whose gradients are added to those of the loss.

    Attributes:
        passed: a first pass is through, so that the optimizer may have changed something; until then nothing has.
        units: of all its micro-batches; 0: nothing is predicted, as in a step of prompts.
        spent: the bill: what was executed so far, by ledger phase.
        heard: the micro-batches with their losses in the first pass over each, detached.
    """

    def __init__(
        self,
        objective: Objective,
        ctx: Context,
        batches: Sequence[Batch],
        clip: float = 0.0,
        step: int = 0,
        ahead: Callable[[], Sequence[Batch]] | None = None,
        work: Work = Work(),
        penalties: Sequence[Penalty] = (),
    ) -> None:
        self._objective, self._ctx, self._clip, self._step, self._ahead = objective, ctx, clip, step, ahead
        self._batches = [batch.drawing(Draws(ctx.rng, step, number)) for number, batch in enumerate(batches)]
        self.units = sum(batch.units for batch in batches)
        self._divisor = max(1, self.units)
        self._work, self._penalties = work, penalties
        self.passed = False
        self.spent: dict[str, Cost] = {}
        self.heard: list[tuple[Batch, Loss]] = []
        for batch in batches:
            add_spent(self.spent, batch.spent)

    def backward(self) -> Outcome:
        """Put the clipped gradient of the mean loss into ``.grad``.

        Raises:
            NumericsError: the loss or a gradient is not finite; names the parameters, changes nothing.
        """
        return self._backward(self._batches, self._clip, self._penalties)

    def resample(self) -> Outcome:
        """As ``backward``, but with targets drawn from the model's own predictions, and unclipped.

        Raises:
            UsageError: the objective cannot draw targets.
        """
        if not isinstance(self._objective, Resampling):
            raise UsageError("its targets cannot be drawn from the model", where="objective")
        drawn = [self._objective.resample(batch) for batch in self._batches]
        self.charge(forward=len(drawn))  # to draw from the predictions, they are computed
        return self._backward(drawn, 0.0)

    def linearize(self) -> list[tuple[Outputs, LossOf]]:
        """Each micro-batch's outputs as a function of the weights, and its share of the mean loss as one of outputs.

        Raises:
            UsageError: the objective is no loss of outputs.
        """
        if not isinstance(self._objective, Linearizing):
            raise UsageError("it cannot be split into outputs and their loss", where="objective")
        pairs = [self._objective.linearize(batch) for batch in self._batches]
        self.passed = True
        return [(outputs, self._share(loss)) for outputs, loss in pairs]

    def _share(self, loss: LossOf) -> LossOf:
        return lambda outputs: loss(outputs) / self._divisor

    def fresh(self) -> StepProblem:
        """The same problem on the data of the next step, which this one has not seen: for a line search.

        The stream stays where it is: the next step trains on that data, so that looking costs no tokens.
        """
        if self._ahead is None:
            raise UsageError("nothing is known of the data of the next step")
        rest = self._work, self._penalties
        problem = StepProblem(self._objective, self._ctx, self._ahead(), self._clip, self._step + 1, None, *rest)
        problem.spent = self.spent  # one bill; what making the batches cost is charged in their own step
        return problem

    def charge(self, forward: int = 0, backward: int = 0) -> None:
        """Charge passes over one micro-batch that were made beside ``backward`` and ``loss``."""
        work = self._work
        add_spent(self.spent, {"train": work.forward * forward + work.backward * backward})
        if backward:
            add_spent(self.spent, {"recompute": work.recompute * backward})

    def _backward(self, batches: Sequence[Batch], clip: float, penalties: Sequence[Penalty] = ()) -> Outcome:
        for group in self._ctx.groups:
            for p in group.params:
                p.grad = None
        totals: list[torch.Tensor] = []
        terms: dict[str, list[Any]] = {}
        for batch in batches:
            loss = self._loss(batch, backward=1)
            (loss.total / self._divisor).backward()  # type: ignore[no-untyped-call]
            totals.append(loss.total.detach())
            for name, term in loss.terms.items():
                terms.setdefault(name, []).append(term)
        for weight, gradient in penalties:
            own = gradient(weight.detach())
            if own is not None and weight.grad is not None:
                weight.grad.add_(own)
        # Only now is a number read: a GPU that is waited for has nothing left to do.
        total = sum(torch.stack(totals).cpu().tolist())
        if not math.isfinite(total):
            raise NumericsError(f"the loss is {total}; {self._weights()}", fix="try a lower learning rate")
        means = {name: sum(map(float, sums)) / self._divisor for name, sums in terms.items()}
        tokens, text_bytes = sum(batch.tokens for batch in batches), sum(batch.text_bytes for batch in batches)
        norm = self._clip_gradient(clip)
        self.passed = True
        return Outcome(total / self._divisor, norm, tokens, text_bytes, means)

    def loss(self) -> float:
        """Mean loss at the present weights, without gradients; nats a unit."""
        with torch.no_grad():
            total = sum(float(self._loss(batch).total) for batch in self._batches)
        self.passed = True
        return total / self._divisor

    def _loss(self, batch: Batch, backward: int = 0) -> Loss:
        """The loss of a micro-batch, charged with ``backward`` passes back."""
        loss = self._objective.loss(batch)
        self.charge(forward=1, backward=backward)
        add_spent(self.spent, loss.spent)
        if len(self.heard) < len(self._batches) and batch is self._batches[len(self.heard)]:
            self.heard.append((batch, replace(loss, total=loss.total.detach())))
        return loss

    def _weights(self) -> str:
        """Whether the weights that the step began with are finite."""
        groups = self._ctx.groups
        broken = _broken([pair for group in groups for pair in zip(group.names, group.params, strict=True)])
        return f"an earlier step left weights that are not finite in {broken}" if broken else "every weight is finite"

    def _clip_gradient(self, clip: float) -> float:
        named = [
            (name, p.grad)
            for group in self._ctx.groups
            for name, p in zip(group.names, group.params, strict=True)
            if p.grad is not None
        ]
        gradients = [gradient for _, gradient in named]
        norm = float(torch.nn.utils.get_total_norm(gradients))
        if not math.isfinite(norm):
            what = f"the gradient is not finite in {_broken(named) or 'its norm'}; {self._weights()}"
            raise NumericsError(what, fix="try a lower learning rate")
        if clip and norm > clip:
            torch._foreach_mul_(gradients, clip / norm)
        return norm


def _broken(named: Sequence[tuple[str, torch.Tensor]]) -> str:
    """The first names of tensors that hold NaN or inf, and how many more do; empty if none does."""
    broken = [name for name, tensor in named if not bool(torch.isfinite(tensor).all())]
    more = f" and {len(broken) - 5} more" if len(broken) > 5 else ""
    return ", ".join(broken[:5]) + more


def training_rule(built: torch.optim.Optimizer | Optimizer) -> Optimizer:
    """What an optimizer part built, as a training rule."""
    return TorchRule(built) if isinstance(built, torch.optim.Optimizer) else built

"""From a budget to a horizon: what one step costs, and how many whole steps fit."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..core.cost import Cost
from ..core.errors import BudgetError
from ..core.recipe import Budget, Recipe

IDLE_STEPS = 1000
"""Steps without a single byte of text in a row after which a stream is taken to have none."""


@dataclass(frozen=True)
class StepCost:
    """Analytic cost of one optimizer step, by ledger phase, and the tokens that it predicts."""

    train: Cost
    recompute: Cost
    optimizer: Cost
    tokens: int

    @property
    def phases(self) -> dict[str, Cost]:
        """What to charge to which phase of a ledger."""
        return {"train": self.train, "recompute": self.recompute, "optimizer": self.optimizer}

    @property
    def total(self) -> Cost:
        return self.train + self.recompute + self.optimizer


def step_cost(recipe: Recipe) -> StepCost:
    """Cost of one step of ``recipe`` from its parts' formulas; neither the model nor any data is built.

    Forward and backward go to ``train``, passes that the optimizer makes beyond them included (their mean over steps);
    averaging's updates join the optimizer's. Tokens are those of full batches.
    """
    train = recipe.train
    work = recipe.objective.work(recipe.model, train.batch, train.length, recipe.vocab_size) * train.accumulate
    forward, backward = recipe.optimizer.passes(train.accumulate)
    shapes = recipe.model.shapes(recipe.vocab_size)
    update = recipe.optimizer.cost(shapes)
    if recipe.averaging is not None:
        update = update + recipe.averaging.cost(shapes)
    return StepCost(
        train=work.forward.scaled(1 + forward) + work.backward.scaled(1 + backward),
        recompute=work.recompute.scaled(1 + backward),
        optimizer=update,
        tokens=train.batch * train.length * train.accumulate,
    )


def steps_within(
    budget: Budget, per_step: Cost | int, tokens_per_step: int, text_bytes: Iterable[int] | None = None
) -> int:
    """The most whole steps whose sum stays within ``budget``: the run's horizon.

    Args:
        per_step: cost of one step, or its model FLOPs.
        text_bytes: bytes of each step in turn; only walked for a budget in bytes. If it ends, so does the run.

    Returns:
        Steps >= 1; 0 for a budget in seconds, which has no horizon: the loop then watches the clock.

    Raises:
        BudgetError: not one step fits, or a step spends nothing on the budget's axis so that it bounds nothing.
    """
    if budget.axis == "seconds":
        return 0
    limit = int(getattr(budget, budget.axis))  # exact: amounts are whole, so the fraction of a FLOP never matters
    if budget.axis == "text_bytes":
        return _steps_of_text(limit, text_bytes)
    flops = per_step.model if isinstance(per_step, Cost) else per_step
    each = {"flops": flops, "tokens": tokens_per_step, "steps": 1}[budget.axis]
    if each <= 0:
        raise _unbounded(budget.axis)
    if each > limit:
        raise _too_small(budget.axis, each, limit)
    return limit // each


def marks(horizon: int, count: int) -> tuple[int, ...]:
    """The steps, ascending, after which to do something ``count`` times at equal distances; the last is ``horizon``.

    Fewer than ``count`` when the run has fewer steps; none without a horizon (0).
    """
    return tuple(sorted({horizon * i // count for i in range(1, count + 1)} - {0}))


def _steps_of_text(limit: int, text_bytes: Iterable[int] | None) -> int:
    if text_bytes is None:
        raise _unbounded("text_bytes")
    steps = spent = idle = 0
    for amount in text_bytes:
        spent, idle = spent + amount, 0 if amount else idle + 1
        if idle >= IDLE_STEPS:
            raise _unbounded("text_bytes")
        if spent > limit:
            if steps == 0:
                raise _too_small("text_bytes", spent, limit)
            break
        steps += 1
    if steps == 0:
        raise _unbounded("text_bytes")
    return steps


def _unbounded(axis: str) -> BudgetError:
    return BudgetError(
        "a step spends nothing on this axis", where=f"budget.{axis}", fix="give a budget in flops or steps"
    )


def _too_small(axis: str, each: int, limit: int) -> BudgetError:
    return BudgetError(
        f"not one step fits: the first costs {each:,} {axis}, the limit is {limit:,}",
        where=f"budget.{axis}",
        fix=f"allow at least {each:,}, or lower train.batch, train.accumulate or the model's size",
    )

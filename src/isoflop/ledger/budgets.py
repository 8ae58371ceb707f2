"""From a budget to a horizon: what one step costs, and how many whole steps fit."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Container, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

from ..core.contracts import PLACE, VARIANT, Passes
from ..core.cost import ZERO, Cost, Work, add_spent
from ..core.errors import BudgetError
from ..core.recipe import Budget, Recipe
from ..core.rng import Rng
from ..core.roles import Shape
from ..core.turns import Turns

LONGEST = 1 << 50
"""More steps than any run takes: a budget that allows as many bounds nothing."""
WORTH_SHARING = 0.1
"""Share of a run's steps above which a longer run takes them over: a rate that falls all along shares the first one."""
IDLE_STEPS = 1000
"""Steps without a single byte of text in a row after which a stream is taken to have none."""
WHOLE = Turns(Rng(0), 1)
"""The turns of a model that every step trains as a whole."""


@dataclass(frozen=True)
class StepCost:
    """Analytic cost of a run's steps, exactly what the loop will charge, and the tokens that each predicts.

    It tells how many steps a budget allows before the first of them is taken. ``step_cost`` makes one of a recipe;
    make one by hand to price a loop of your own.

    Args:
        work: of the objective on one micro-batch.
        charges: what else the loss of one micro-batch costs, by ledger phase.
        once: what the first loss of the run costs beside, by ledger phase.
        stages: (first step, work from there on, of each variant) of a run of so many steps; None: always ``work``.
        turns: which variant each step is of.
        accumulate: micro-batches of one step.
        tokens: predicted by one step of full batches.
        updates: what the optimizer and the averaging do in the first n steps.
        passes: the optimizer's passes beyond the gradient's own in the first n steps, over single micro-batches.

    Example:
        >>> work = Work(forward=Cost(flops=100, executed=100), backward=Cost(flops=200, executed=200))
        >>> cost = StepCost(work, {}, 2, 64, updates=lambda n: Cost(elementwise=n), passes=lambda n: Passes())
        >>> cost.update(0).elementwise
        1
    """

    work: Work
    charges: Mapping[str, Cost]
    accumulate: int
    tokens: int
    updates: Callable[[int], Cost] = field(compare=False)
    passes: Callable[[int], Passes] = field(compare=False)
    once: Mapping[str, Cost] = field(default_factory=dict)
    stages: Callable[[int], Sequence[tuple[int, Sequence[Work]]]] | None = field(default=None, compare=False)
    turns: Turns = WHOLE

    def work_at(self, t: int, horizon: int) -> Work:
        """Of the objective on one micro-batch in step ``t`` (from 0) of a run of ``horizon`` steps."""
        if self.stages is None:
            return self.work
        return [works for start, works in self.stages(horizon) if start <= t][-1][self.turns.at(t)]

    def update(self, t: int) -> Cost:
        """What the optimizer and the averaging do in step ``t`` (from 0)."""
        return self.updates(t + 1) - self.updates(t)

    def phases(self, steps: int) -> dict[str, Cost]:
        """What the first ``steps`` steps of a run cost, by ledger phase; where they differ, a run of so many steps."""
        staged = ((0, (self.work,)),) if self.stages is None else self.stages(steps)
        ends = [min(start, steps) for start, _ in staged[1:]] + [steps]
        spent: dict[str, Cost] = {"train": ZERO, "recompute": ZERO, "optimizer": self.updates(steps)}
        for (start, works), end in zip(staged, ends, strict=True):
            passes = self.passes(end) - self.passes(min(start, end))  # with several variants there are none
            before, after = self.turns.counts(min(start, end)), self.turns.counts(end)
            for work, first, last in zip(works, before, after, strict=True):
                own = (last - first) * self.accumulate
                forward, backward = own + passes.forward, own + passes.backward
                spent["train"] += work.forward * forward + work.backward * backward
                spent["recompute"] += work.recompute * backward
        losses = steps * self.accumulate + self.passes(steps).losses
        spent |= {phase: cost * losses for phase, cost in self.charges.items()}
        if steps:
            add_spent(spent, self.once)
        return spent

    def run(self, steps: int) -> Cost:
        """What the first ``steps`` steps of a run cost."""
        return sum(self.phases(steps).values(), Cost())


def step_cost(recipe: Recipe) -> StepCost:
    """Cost of one step of ``recipe`` from its parts' formulas; neither the model nor any data is built.

    Forward and backward go to ``train``, passes that the optimizer makes beyond them included; averaging's updates join
    the optimizer's. Tokens are those of full batches.
    """
    train = recipe.train
    shapes = recipe.policy.trained_shapes(recipe.vocab_size)
    treatment = recipe.policy.treatment
    first = recipe.model.treated(treatment.priced(treatment.stages(LONGEST)[0][1]))
    turns = Turns(recipe.rng(VARIANT), recipe.model.variants)
    updates = _updates(recipe, shapes, turns)
    passes, before = recipe.optimizer.passes_of(train.accumulate), recipe.taken
    average = recipe.averaging.cost(shapes) if recipe.averaging is not None else Cost()
    return StepCost(
        work=recipe.objective.work(first, train.batch, train.length, recipe.vocab_size),
        charges=recipe.objective.charges(recipe),
        accumulate=train.accumulate,
        tokens=train.batch * train.length * train.accumulate,
        updates=lambda steps: updates(before + steps) - updates(before) + average * steps,
        passes=lambda steps: passes(before + steps) - passes(before),
        once=recipe.objective.once(recipe),
        stages=_stages(recipe),
        turns=turns,
    )


def _stages(recipe: Recipe) -> Callable[[int], Sequence[tuple[int, Sequence[Work]]]] | None:
    """The work of each stage of a run, by variant, where some steps cost less than others."""
    treatment, train, variants = recipe.policy.treatment, recipe.train, recipe.model.variants
    if variants == 1 and len(treatment.stages(LONGEST)) == 1:
        return None

    @cache
    def works(stage: Hashable) -> Sequence[Work]:
        model = recipe.model.treated(treatment.priced(stage))
        each = [model] if variants == 1 else [model.varied(variant) for variant in range(variants)]
        return [recipe.objective.work(one, train.batch, train.length, recipe.vocab_size) for one in each]

    return lambda horizon: [(start, works(stage)) for start, stage in treatment.stages(horizon)]


def _updates(recipe: Recipe, shapes: Sequence[Shape], turns: Turns) -> Callable[[int], Cost]:
    """What the optimizer does in the first n steps: each parameter is updated in the steps that have a use for it."""
    if turns.variants == 1 or recipe.objective.runs_every_variant:
        return recipe.optimizer.cost_of(shapes)
    idle = [recipe.model.varied(variant).idle() for variant in range(turns.variants)]
    alike: dict[tuple[bool, ...], list[Shape]] = {}
    for shape in shapes:
        own = shape.name.split(f".{PLACE}.")[0]  # what a parametrization adds goes with its weight
        alike.setdefault(tuple(f"{own}.weight" in names or own in names for names in idle), []).append(shape)
    costs = [(unused, recipe.optimizer.cost_of(some)) for unused, some in alike.items()]

    def spent(steps: int) -> Cost:
        counts = turns.counts(steps)
        used = [sum(n for n, without in zip(counts, unused, strict=True) if not without) for unused, _ in costs]
        return sum((cost(n) for (_, cost), n in zip(costs, used, strict=True)), Cost())

    return spent


def steps_within(budget: Budget, cost: StepCost, text_bytes: Iterable[int] | None = None) -> int:
    """The most whole steps whose sum stays within ``budget``: the run's horizon.

    Args:
        budget: the limit and its axis.
        cost: of the run's steps.
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
    axes: dict[str, Callable[[int], int]] = {
        "flops": lambda steps: cost.run(steps).flops,
        "tokens": lambda steps: steps * cost.tokens,
        "steps": lambda steps: steps,
    }
    spent = axes[budget.axis]
    if spent(LONGEST) <= limit:
        raise _unbounded(budget.axis) if spent(LONGEST) <= 0 else _too_large(budget.axis, limit)
    if spent(1) > limit:
        raise _too_small(budget.axis, spent(1), limit)
    return bisect_right(range(1, LONGEST), limit, key=spent)


def whole_run(recipe: Recipe) -> tuple[int, Cost]:
    """The steps that a recipe's budget allows, and what they cost; BudgetError as ``steps_within``.

    Of a budget in seconds 0 steps: how many fit is seen only as they are taken.
    """
    cost = step_cost(recipe)
    steps = steps_within(recipe.budget, cost)
    return steps, cost.run(steps)


def leaves_at(recipe: Recipe) -> int:
    """Steps after which a run of twice as many may leave one of this recipe; 0: hardly any, or not known beforehand.

    Until then the schedule gives both the same rates (``SchedulePart.shared``).

    Args:
        recipe: of the shorter run.
    """
    if recipe.budget.axis in ("seconds", "text_bytes"):
        return 0
    steps = steps_within(recipe.budget, step_cost(recipe))
    shared = recipe.schedule.shared(steps, 2 * steps)
    return shared if shared > max(1, WORTH_SHARING * steps) else 0


@dataclass(frozen=True)
class Marks(Container[int]):
    """The steps after which to do something ``count`` times at equal distances; the last is ``horizon``.

    Fewer than ``count`` when the run has fewer steps; none without a horizon (0). A set that is never written out: both
    numbers may be astronomic.

    Example:
        >>> marks = Marks(horizon=100, count=4)
        >>> [step for step in range(101) if step in marks]
        [25, 50, 75, 100]
    """

    horizon: int
    count: int

    def __contains__(self, step: object) -> bool:
        count = min(self.count, self.horizon)
        if not isinstance(step, int) or not 0 < step <= self.horizon:
            return False
        return self.horizon * -(-step * count // self.horizon) // count == step


def steps_at(budget: Budget, each: int) -> int:
    """The whole steps within a budget in text bytes if each spends ``each``; BudgetError as ``steps_within``."""
    limit = int(budget.limit)
    if each <= 0:
        raise _unbounded(budget.axis)
    if limit > LONGEST * each:
        raise _too_large(budget.axis, limit)
    if limit < each:
        raise _too_small(budget.axis, each, limit)
    return limit // each


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
        if steps == IDLE_STEPS and limit * steps > LONGEST * spent:  # it would be walked for ever
            raise _too_large("text_bytes", limit)
    if steps == 0:
        raise _unbounded("text_bytes")
    return steps


def _unbounded(axis: str) -> BudgetError:
    return BudgetError(
        "a step spends nothing on this axis", where=f"budget.{axis}", fix="give a budget in flops or steps"
    )


def _too_large(axis: str, limit: int) -> BudgetError:
    return BudgetError(f"{limit:.3g} {axis} are more than any run can spend", where=f"budget.{axis}", fix="lower it")


def _too_small(axis: str, each: int, limit: int) -> BudgetError:
    return BudgetError(
        f"not one step fits: the first costs {each:,} {axis}, the limit is {limit:,}",
        where=f"budget.{axis}",
        fix=f"allow at least {each:,}, or lower train.batch, train.accumulate or the model's size",
    )

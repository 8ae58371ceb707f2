"""The loop: it fits a screen or two and knows no method by name."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from ..core.contracts import Batch, Outcome, weights_told
from ..core.cost import Cost
from ..core.errors import BudgetError, NumericsError, Stopped
from ..ledger.budgets import Marks, StepCost
from ..ledger.peak import wait
from .parts import tell
from .problem import StepProblem
from .session import Begun, Session
from .signals import StopRequest, held_off
from .watch import WINDOW, Progress, refuse_divergence


@dataclass
class Loop(Session):
    """Trains a session to its horizon: from the start, or from the newest checkpoint after ``resume``.

    Args:
        cost: what one step costs, by phase.
        peak: FLOP/s that utilisation is a share of; 0: unknown.
        progress: called after each step.
        knows_length: a part beside the schedule asked how long the run is.
    """

    cost: StepCost = field(kw_only=True)
    knows_length: bool = False
    peak: float = 0.0
    progress: Callable[[Progress], None] | None = None
    _first: float = 0.0
    """Seconds of this process's first step, which compiles and warms up: it counts only until there is another."""
    _flops: int = 0
    """Of the last step."""

    def __call__(self) -> None:
        """Train from here to the end. Every evaluation finds its step's checkpoint on the disk; an error finds a step.

        Raises:
            NumericsError: it diverged.
            Stopped: a signal came; the state is saved.
            StorageError: the disk refused.
        """
        settings, every = self.recipe.train, max(1, self.ctx.horizon // 200)
        with StopRequest() as stop, self.saved_at_exit():
            if self.owed:
                self.evaluate()
            while not self._finished():
                outcome, seconds = self.train_step()
                self._refuse_overspent()
                ended = self._finished()
                self.owed = ended or self._due(settings.evaluations, seconds)
                if self.step % every == 0 or self.owed:
                    self._record_step(outcome, seconds)
                if self.owed or self.step == self.branch or self._due(settings.checkpoints, seconds):
                    self.save()
                if self.owed:
                    self.evaluate()
                self.run.heartbeat(self.step)
                self._show(outcome, seconds)
                if stop.number and not ended:
                    with held_off():
                        self.save()
                    raise Stopped(stop.number, f"at step {self.step}", "run again to go on")
        if len(self.last_losses) == WINDOW:  # a run too short for both windows is taken as it is
            refuse_divergence(self.first_losses, self.last_losses)

    def train_step(self) -> tuple[Outcome, float]:
        """Take one step and charge it: what it did, and its seconds."""
        began = time.perf_counter()
        parts, ctx = self.parts, self.ctx
        tell(parts.timed, self.step, ctx.horizon)
        self._begun = Begun.of(parts)
        clip, work = self.recipe.train.clip, self.cost.work_at(self.step, ctx.horizon)
        given = (clip, self.step, self.ahead if parts.listener is None else None, work, parts.penalties)
        problem = StepProblem(parts.objective, ctx, self.next_batches(), *given)
        self._begun.problem = problem
        parts.optimizer.set_factor(parts.schedule.factor(self.step, ctx.horizon))
        outcome = parts.optimizer.step(problem)
        if parts.listener is not None:
            for heard in problem.heard:
                parts.listener.learn(*heard)
        if parts.averaging is not None:
            parts.averaging.update(self.step)
        wait(ctx.device)  # else the optimizer's work would be charged to whatever waits next
        self.step += 1
        seconds = time.perf_counter() - began
        if self._first:
            self.slowest = max(self.slowest, seconds)
        else:
            self._first = seconds
        if problem.units:  # a step of prompts alone predicts nothing, and its loss of 0 says nothing
            self._keep(outcome.loss)
        self.ledger.add("train", steps=1, tokens=outcome.tokens, text_bytes=outcome.text_bytes, seconds=seconds)
        charges = [*problem.spent.items(), ("optimizer", self.cost.update(self.step - 1))]
        for phase, cost in charges:
            self.ledger.add(phase, cost)
        self._flops = sum(cost.flops for _, cost in charges)
        self._begun = None
        return outcome, seconds

    def _keep(self, loss: float) -> None:
        """Keep a step's loss if it is among the first ones, or as the newest of the last ones."""
        losses = self.first_losses if len(self.first_losses) < WINDOW else self.last_losses
        losses.append(loss)
        del losses[:-WINDOW]

    def next_batches(self) -> list[Batch]:
        """The micro-batches of one step."""
        return [next(self.parts.batches) for _ in range(self.ctx.accumulate)]

    def ahead(self) -> list[Batch]:
        """The micro-batches of the next step; the stream stays where it is."""
        position = self.parts.batches.state_dict()
        batches = self.next_batches()
        self.parts.batches.load_state_dict(position)
        return batches

    def _finished(self) -> bool:
        if self.ctx.horizon:
            return self.step >= self.ctx.horizon
        return self.ledger.total("seconds") + (self.slowest or self._first) > self.recipe.budget.limit

    def _refuse_overspent(self) -> None:
        """BudgetError if the run's first step alone took longer than a budget in seconds allows."""
        spent = self.ledger.total("seconds")
        if not self.ctx.horizon and self.step == 1 and spent > self.recipe.budget.limit:
            raise BudgetError(f"not one step fits: the first took {spent:.3g} s", where="budget.seconds")

    def _due(self, count: int, seconds: float) -> bool:
        """Whether the step just done, which took ``seconds``, passed one of ``count`` equal parts of the budget."""
        if self.ctx.horizon:
            return self.step in Marks(self.ctx.horizon, count)
        spent, limit = self.ledger.total("seconds"), self.recipe.budget.limit
        return int((spent - seconds) / limit * count) < int(spent / limit * count)

    def evaluate(self) -> None:
        """Measure and record; the first metric is the run's value. NumericsError if one is not finite."""
        began = time.perf_counter()
        results = self.measure()
        self.ledger.add(
            "evaluation", sum((r.cost for r in results.values()), Cost()), seconds=time.perf_counter() - began
        )
        for name, result in results.items():
            if not math.isfinite(result.value):
                raise NumericsError(f"{name} is {result.value} at step {self.step}")
        kept = {part.name: part.record(results[part.name]) for part in self.recipe.metrics}
        first = next(iter(kept.values()))
        self.value, self.bound, self.owed, self.measured = first["value"], first["bound"], False, self.step
        more = {"metrics": kept, **({"weights": told} if (told := weights_told(self.parts.model)) else {})}
        self.run.record("evaluation", step=self.step, **self.spent(), **first, **more)
        self.run.write_ledger(self.ledger.to_json())

    def outcome(self) -> dict[str, Any]:
        """The run's value, what it is measured on, and what training has cost, as JSON values."""
        return {"value": self.value, "bound": self.bound, **asdict(self.scale), "step": self.step, **self.spent()}

    def spent(self) -> dict[str, Any]:
        """What training has cost so far, evaluation not counted."""
        return {
            axis: self.ledger.total(axis) for axis in ("flops", "hardware_flops", "tokens", "text_bytes", "seconds")
        }

    def _record_step(self, outcome: Outcome, seconds: float) -> None:
        self.run.record(
            "step",
            step=self.step,
            loss=outcome.loss,
            grad_norm=outcome.grad_norm,
            factor=self.parts.schedule.factor(self.step - 1, self.ctx.horizon),
            tokens_per_second=outcome.tokens / seconds,
            utilisation=self._utilisation(seconds),
            **self.spent(),
            **({"terms": dict(outcome.terms)} if outcome.terms else {}),
        )

    def _utilisation(self, seconds: float) -> float:
        """The step's share of the machine's rate; 0: unknown, which a rate is that a step exceeds."""
        rate = self._flops / seconds
        if self.peak and rate > self.peak:
            self.peak = 0.0
        return rate / self.peak if self.peak else 0.0

    def _show(self, outcome: Outcome, seconds: float) -> None:
        """Tell whoever follows the run; where that one cannot be reached any more, training goes on all the same."""
        if self.progress is not None:
            spent = self.ledger.total("seconds")
            rate = outcome.tokens / seconds
            shown = (self.step, self.ctx.horizon, outcome.loss, spent, rate, self._utilisation(seconds))
            with suppress(OSError):
                self.progress(Progress(*shown, self.value, self.bound, self.scale, self.measured == self.step))

"""The loop: it fits a screen or two and knows no method by name."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import fmean, variance
from typing import Any

import torch

from ..core.context import Context
from ..core.contracts import (
    TOKENIZER,
    Averaging,
    Batch,
    Batches,
    Measurement,
    Metric,
    Objective,
    Optimizer,
    Outcome,
    SchedulePart,
    Source,
    Stateful,
    Storable,
    Subject,
    SwapsWeights,
    Timed,
)
from ..core.cost import Cost
from ..core.errors import BudgetError, DataError, NumericsError, Stopped
from ..core.recipe import Recipe
from ..core.scale import Scale
from ..ledger.budgets import Marks, StepCost
from ..ledger.ledger import Ledger
from ..ledger.peak import wait
from ..store.run import Run
from .problem import StepProblem
from .signals import StopRequest, held_off
from .state import load_tensors, load_tree, save_tensors, save_tree

WINDOW = 10
"""Steps at a run's beginning and end whose losses are averaged to tell whether it diverged."""


@dataclass
class Parts:
    """The live parts of one run."""

    source: Source
    batches: Batches
    model: torch.nn.Module
    objective: Objective
    optimizer: Optimizer
    schedule: SchedulePart
    averaging: Averaging | None
    metrics: list[tuple[str, Metric]]

    @cached_property
    def timed(self) -> list[Timed]:
        """The model's modules that change with time."""
        return timed(self.model)


@dataclass
class Begun:
    """A step under way: where the data stood before it, and its problem once that is made."""

    position: dict[str, Any]
    problem: StepProblem | None = None

    @property
    def changed_nothing(self) -> bool:
        """No weight and no state of an optimizer changes before the first pass is through."""
        return self.problem is None or not self.problem.passed


@dataclass(frozen=True)
class Progress:
    """What a progress bar wants to know; ``seconds`` counts training alone, rates are over the last step."""

    step: int
    horizon: int
    loss: float
    seconds: float
    tokens_per_second: float
    utilisation: float
    value: float | None
    """Of the last evaluation's first metric, on ``scale``; None before any."""
    bound: bool
    """It is a bound."""
    scale: Scale


@dataclass
class Loop:
    """Trains to the horizon: from the start, or from the newest checkpoint after ``resume``.

    Attributes:
        cost: what one step costs, by phase. peak: FLOP/s that utilisation is a share of (0: unknown).
        owed: the evaluation of the present step is still to be done; kept in checkpoints, which are committed first.
        slowest: seconds of the longest step so far; a budget in seconds ends where one as long would exceed it. A
            process's first step, which compiles and warms up, counts only until there is another.
    """

    recipe: Recipe
    run: Run
    ctx: Context
    parts: Parts
    cost: StepCost
    peak: float = 0.0
    progress: Callable[[Progress], None] | None = None
    step: int = 0
    ledger: Ledger = field(default_factory=Ledger)
    value: float | None = None
    bound: bool = False
    owed: bool = False
    first_losses: list[float] = field(default_factory=list)
    last_losses: list[float] = field(default_factory=list)
    slowest: float = 0.0
    _first: float = 0.0
    _flops: int = 0
    _begun: Begun | None = None

    def __call__(self) -> None:
        """Train from here to the end. Every evaluation finds its step's checkpoint on the disk; an error finds a step.

        Raises:
            NumericsError: it diverged. Stopped: a signal came; the state is saved. StorageError.
        """
        settings, every = self.recipe.train, max(1, self.ctx.horizon // 200)
        with StopRequest() as stop, self._saved_at_exit():
            if self.owed:
                self.evaluate()
            while not self._finished():
                outcome, seconds = self.train_step()
                ended = self._finished()
                self.owed = ended or self._due(settings.evaluations, seconds)
                if self.step % every == 0 or self.owed:
                    self._record_step(outcome, seconds)
                if self.owed or self._due(settings.checkpoints, seconds):
                    self.save()
                if self.owed:
                    self.evaluate()
                self.run.heartbeat(self.step)
                self._show(outcome, seconds)
                if stop.number and not ended:
                    with held_off():
                        self.save()
                    raise Stopped(
                        stop.number, f"stopped by signal {stop.number} at step {self.step}; run again to go on"
                    )
        self._refuse_divergence()

    def train_step(self) -> tuple[Outcome, float]:
        """Take one step and charge it: what it did, and its seconds."""
        began = time.perf_counter()
        parts, ctx = self.parts, self.ctx
        tell(parts.timed, self.step, ctx.horizon)
        self._begun = Begun(parts.batches.state_dict())
        clip, work = self.recipe.train.clip, self.cost.work
        problem = StepProblem(parts.objective, ctx, self.next_batches(), clip, self.step, self.ahead, work)
        self._begun.problem = problem
        parts.optimizer.set_factor(parts.schedule.factor(self.step, ctx.horizon))
        outcome = parts.optimizer.step(problem)
        if parts.averaging is not None:
            parts.averaging.update(self.step)
        wait(ctx.device)  # else the optimizer's work would be charged to whatever waits next
        self.step += 1
        seconds = time.perf_counter() - began
        if self._first:
            self.slowest = max(self.slowest, seconds)
        else:
            self._first = seconds
        if len(self.first_losses) < WINDOW:
            self.first_losses.append(outcome.loss)
        self.last_losses = [*self.last_losses, outcome.loss][-WINDOW:]
        self.ledger.add("train", steps=1, tokens=outcome.tokens, text_bytes=outcome.text_bytes, seconds=seconds)
        charges = [*problem.spent.items(), ("optimizer", self.cost.update(self.step - 1))]
        for phase, cost in charges:
            self.ledger.add(phase, cost)
        self._flops = sum(cost.model for _, cost in charges)
        self._begun = None
        return outcome, seconds

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
        spent, limit = self.ledger.total("seconds"), self.recipe.budget.limit
        if self.step == 1 and spent > limit:
            raise BudgetError(f"not one step fits: the first took {spent:.3g} s", where="budget.seconds")
        return spent + (self.slowest or self._first) > limit

    def _due(self, count: int, seconds: float) -> bool:
        """Whether the step just done, which took ``seconds``, passed one of ``count`` equal parts of the budget."""
        if self.ctx.horizon:
            return self.step in Marks(self.ctx.horizon, count)
        spent, limit = self.ledger.total("seconds"), self.recipe.budget.limit
        return int((spent - seconds) / limit * count) < int(spent / limit * count)

    def measure(self) -> dict[str, Measurement]:
        """Every metric of the recipe, with the evaluation weights."""
        heldout, rng = self.parts.source.heldout(), self.recipe.rng("evaluation")
        with evaluation_weights(self.parts.optimizer, self.parts.averaging):
            subject = Subject(self.parts.model, self.parts.objective, self.ctx)
            return {name: metric.measure(subject, heldout, rng(name)) for name, metric in self.parts.metrics}

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
        self.value, self.bound, self.owed = first["value"], first["bound"], False
        self.run.record("evaluation", step=self.step, **self.spent(), **first, metrics=kept)
        self.run.write_ledger(self.ledger.to_json())

    @property
    def scale(self) -> Scale:
        """What the run's value, its first metric's, is measured on."""
        return self.recipe.metrics[0].scale

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
                self.progress(Progress(*shown, self.value, self.bound, self.scale))

    def _refuse_divergence(self) -> None:
        """A run that ends clearly above where it began has diverged, however finite it is.

        Means over the first and the last steps are compared, and the difference must exceed three of its standard
        errors; a run too short for both windows is taken as it is.
        """
        if self.step < 2 * WINDOW:
            return
        first, last = fmean(self.first_losses), fmean(self.last_losses)
        noise = math.sqrt((variance(self.first_losses) + variance(self.last_losses)) / WINDOW)
        if last > first + 3 * noise:
            raise NumericsError(
                f"the loss ended at {last:.3f}, above its start {first:.3f}: the run diverged",
                fix="try a lower learning rate",
            )

    # ------------------------------------------------------------ durability

    def save(self) -> None:
        """Commit a checkpoint of everything that the next step depends on, and of the tokenizer for who generates."""

        def write(directory: Path) -> None:
            save_tensors(directory / "model.safetensors", self.parts.model.state_dict())
            save_tree(directory, "state", {"fingerprint": self.parts.source.fingerprint, **self._state()})
            tokenizer = getattr(self.parts.source, "tokenizer", None)  # sources of text have one
            if isinstance(tokenizer, Storable):
                tokenizer.save(directory / TOKENIZER)

        due = Marks(self.ctx.horizon, self.recipe.train.checkpoints) if self.ctx.horizon else None
        self.run.save(self.step, write, due)

    @contextmanager
    def _saved_at_exit(self) -> Iterator[None]:
        """Commit the state before an error leaves the block, unless the run is at fault or the state is half a step's.

        What else ends a run says nothing against its state: no memory, no network, an interrupt, a fault in a metric.
        """
        try:
            yield
        except (NumericsError, BudgetError, Stopped):
            raise
        except BaseException:
            if self.step and self._between_steps():
                with suppress(Exception), held_off():  # the first error is the one to tell
                    self.save()
            raise

    def _between_steps(self) -> bool:
        """Whether the state is one between two steps; a step that failed before it changed anything is taken back."""
        if self._begun is not None and self._begun.changed_nothing and not isinstance(self.parts.objective, Stateful):
            self.parts.batches.load_state_dict(self._begun.position)
            self._begun = None
        return self._begun is None

    def _stateful(self) -> dict[str, Stateful]:
        candidates = {
            "batches": self.parts.batches,
            "objective": self.parts.objective,
            "optimizer": self.parts.optimizer,
            "averaging": self.parts.averaging,
            "ledger": self.ledger,
        }
        return {name: part for name, part in candidates.items() if isinstance(part, Stateful)}

    def _state(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "value": self.value,
            "bound": self.bound,
            "owed": self.owed,
            "first_losses": self.first_losses,
            "last_losses": self.last_losses,
            "slowest": self.slowest,
            "parts": {name: part.state_dict() for name, part in self._stateful().items()},
        }

    def load(self, step: int, directory: Path) -> None:
        """Take up the state of a checkpoint. DataError if it was made on another corpus."""
        state = load_tree(directory, "state")
        refuse_other_corpus(self.run, state["fingerprint"], self.parts.source)
        self.parts.model.load_state_dict(load_tensors(directory / "model.safetensors"))
        for name, part in self._stateful().items():
            part.load_state_dict(state["parts"][name])
        self.step, self.value = step, state["value"]
        tell(self.parts.timed, step - 1, self.ctx.horizon)
        self.bound = state.get("bound", False)  # checkpoints of old do not say it
        self.owed = state.get("owed", False)  # they were committed after their evaluation
        self.first_losses, self.last_losses = state["first_losses"], state["last_losses"]
        self.slowest = state.get("slowest", 0.0)

    def resume(self) -> None:
        """Take up the newest whole checkpoint, if there is one."""
        found = self.run.checkpoint()
        if found is not None:
            self.load(*found)
            self.run.event("resumed", step=self.step)
        self.run.truncate_metrics(self.step, again="evaluation" if self.owed else None)


def timed(model: torch.nn.Module) -> list[Timed]:
    """The modules of a model that change with time."""
    return [module for module in model.modules() if isinstance(module, Timed)]


def tell(modules: Iterable[Timed], step: int, horizon: int) -> None:
    """Tell what changes with time which step comes, or (after loading) which was the last."""
    for module in modules:
        module.at(max(step, 0), horizon)


@contextmanager
def evaluation_weights(optimizer: Optimizer, averaging: Averaging | None) -> Iterator[None]:
    """While entered, the model holds the weights to be evaluated: the optimizer's, or those of the averaging."""
    with ExitStack() as stack:
        for part in (optimizer, averaging):
            if isinstance(part, SwapsWeights):
                stack.enter_context(part.evaluation_weights())
        yield


def refuse_other_corpus(run: Run, fingerprint: str, source: Source) -> None:
    """DataError if the corpus is not the one whose fingerprint a run kept."""
    if fingerprint != source.fingerprint:
        raise DataError(
            f"the corpus has changed since this run began (fingerprint {fingerprint[:12]}, "
            f"now {source.fingerprint[:12]})",
            where=str(run.path),
            fix="restore the text, or train on the changed one under another --name, or remove this run; `isoflop "
            "generate` works without the text",
        )

"""A run in memory: its live parts, how far it has come, and how both are kept on the disk and taken up again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..core.context import Context
from ..core.contracts import TOKENIZER, Measurement, Source, Stateful, Storable, Subject
from ..core.errors import BudgetError, DataError, NumericsError, Stopped
from ..core.recipe import Recipe
from ..core.scale import Scale
from ..ledger.budgets import Marks
from ..ledger.ledger import Ledger
from ..store.run import Run
from .parts import Parts, evaluation_weights, in_use, tell
from .problem import StepProblem
from .signals import held_off
from .state import Held, load_tensors, load_tree, save_tensors, save_tree

OPTIMIZER = "optimizer"
"""The name under which a checkpoint keeps the optimizer's state."""


@dataclass
class Begun:
    """A step under way: where the data stood before it, what the objective held, and its problem once that is made."""

    position: dict[str, Any]
    objective: Held | None = None
    problem: StepProblem | None = None

    @classmethod
    def of(cls, parts: Parts) -> Begun:
        """A step of these parts, which begins now."""
        held = None if parts.remembering is None else Held(parts.remembering)
        return cls(parts.batches.state_dict(), held)

    @property
    def changed_nothing(self) -> bool:
        """No weight and no state of an optimizer changes before the first pass is through."""
        return self.problem is None or not self.problem.passed


@dataclass
class Session:
    """A run with its live parts, at some step.

    Args:
        recipe: what is trained.
        run: its directory.
        ctx: what the parts were built with.
        parts: the live parts.
        step: steps done.
        ledger: what was spent.
        value: the last evaluation's first metric; None before any.
        bound: that value is a bound.
        owed: the evaluation of the present step is still to be done; kept in checkpoints, which are committed first.
        first_losses: of the run's first steps that predict anything, nats a unit.
        last_losses: of the last ones behind them, nats a unit.
        measured: the step of the last evaluation in this process.
        branch: a step whose checkpoint stays, since a longer run may go on from there; 0: none.
        slowest: seconds of the longest step so far; a budget in seconds ends where one as long would exceed it.
    """

    recipe: Recipe
    run: Run
    ctx: Context
    parts: Parts
    step: int = 0
    ledger: Ledger = field(default_factory=Ledger)
    value: float | None = None
    bound: bool = False
    owed: bool = False
    first_losses: list[float] = field(default_factory=list)
    last_losses: list[float] = field(default_factory=list)
    branch: int = 0
    slowest: float = 0.0
    measured: int | None = None
    _begun: Begun | None = None

    @property
    def scale(self) -> Scale:
        """What the run's value, its first metric's, is measured on."""
        return self.recipe.metrics[0].scale

    def measure(self) -> dict[str, Measurement]:
        """Every metric of the recipe, with the evaluation weights."""
        heldout, rng = self.parts.source.heldout(), self.recipe.rng("evaluation")
        with evaluation_weights(self.parts.optimizer, self.parts.averaging), in_use(self.parts.model):
            subject = Subject(self.parts.model, self.parts.objective, self.ctx)
            return {name: metric.measure(subject, heldout, rng(name)) for name, metric in self.parts.metrics}

    def remark(self, warn: Callable[[str], None] | None) -> None:
        """Call ``warn`` with what a user should know of how the text is measured."""
        if warn is not None:
            for sentence in getattr(self.parts.source, "remarks", ()):
                warn(sentence)

    def save(self) -> None:
        """Commit a checkpoint: all that the next step depends on, and the tokenizer, which ``generate`` needs."""

        def write(directory: Path) -> None:
            save_tensors(directory / "model.safetensors", self.parts.model.state_dict())
            save_tree(directory, "state", {"fingerprint": self.parts.source.fingerprint, **self._state()})
            tokenizer = getattr(self.parts.source, "tokenizer", None)  # sources of text have one
            if isinstance(tokenizer, Storable):
                tokenizer.save(directory / TOKENIZER)

        due = Marks(self.ctx.horizon, self.recipe.train.checkpoints) if self.ctx.horizon else None
        self.run.save(self.step, write, due, {self.branch})

    def load(self, step: int, directory: Path, *, training: bool = True) -> None:
        """Take up the state of a checkpoint.

        Args:
            step: the steps that it was made after.
            directory: where it lies.
            training: the optimizer's state is needed, not only what an evaluation needs.

        Raises:
            DataError: it was made on another corpus, or its optimizer's state was cleared away.
        """
        state = load_tree(directory, "state")
        refuse_other_corpus(self.run, state["fingerprint"], self.parts.source)
        self.parts.model.load_state_dict(load_tensors(directory / "model.safetensors"))
        for name, part in self._stateful().items():
            if name != OPTIMIZER or name in state["parts"]:
                part.load_state_dict(state["parts"][name])
            elif training:
                raise cleared(directory)
        self.step, self.value = step, state["value"]
        tell(self.parts.timed, step - 1, self.ctx.horizon)
        self.bound = state.get("bound", False)  # checkpoints of old do not say it
        self.owed = state.get("owed", False)  # they were committed after their evaluation
        self.first_losses, self.last_losses = state["first_losses"], state["last_losses"]
        self.slowest = state.get("slowest", 0.0)

    def resume(self) -> None:
        """Take up the newest whole checkpoint, if there is one; what was recorded after it is dropped."""
        found = self.run.checkpoint()
        if found is not None:
            self.load(*found)
            self.run.event("resumed", step=self.step)
        self.run.truncate_metrics(self.step, again="evaluation" if self.owed else None)

    @contextmanager
    def saved_at_exit(self) -> Iterator[None]:
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
        """Whether the state is one between two steps; a step that failed in its first pass is taken back if it can be.

        By then no weight has changed; an objective that writes to the tensors of its state keeps it from being so.
        """
        begun = self._begun
        if begun is not None and begun.changed_nothing and (begun.objective is None or begun.objective.give_back()):
            self.parts.batches.load_state_dict(begun.position)
            self._begun = None
        return self._begun is None

    def _stateful(self) -> dict[str, Stateful]:
        return {**self.parts.stateful, "ledger": self.ledger}

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


def cleared(directory: Path) -> DataError:
    """Why training cannot go on from a checkpoint whose optimizer's state `isoflop runs gc` has removed."""
    what = "its optimizer's state was cleared away when its study was done, so training cannot go on from it"
    return DataError(what, where=str(directory), fix="start=RUN begins anew with its weights; or train it again")


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

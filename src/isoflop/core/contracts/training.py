"""The contracts of a step: the problem that an optimizer sees, optimizer, schedule, averaging."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from ..context import Context
from ..cost import Cost
from ..registry import Part
from ..roles import Shape
from .objective import LossOf, Outputs

if TYPE_CHECKING:
    import torch


@runtime_checkable
class Stateful(Protocol):
    """Has state that a checkpoint must keep: nested dicts of tensors and JSON values."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any], /) -> Any: ...


@runtime_checkable
class SwapsWeights(Protocol):
    """An optimizer or averaging that trains at one point and is evaluated at another."""

    def evaluation_weights(self) -> AbstractContextManager[None]: ...


@runtime_checkable
class Curvature(Protocol):
    """An optimizer that estimates the loss's curvature along each weight: the mean of squared gradients."""

    def curvature(self, parameter: torch.Tensor) -> torch.Tensor | None:
        """Of one parameter, in its shape, not to be changed; None while there is none (before the first step)."""


# ---------------------------------------------------------------- the step


@dataclass(frozen=True)
class Outcome:
    """What an optimizer reports of one step.

    Args:
        loss: mean over the step's units, in nats.
        grad_norm: of the gradient before clipping.
        tokens: predicted by the step.
        text_bytes: UTF-8 bytes of text that they stand for.
        terms: means of what the objective logs.

    Example:
        >>> Outcome(loss=5.5, grad_norm=1.0, tokens=32, text_bytes=120).loss
        5.5
    """

    loss: float
    grad_norm: float
    tokens: int
    text_bytes: int
    terms: Mapping[str, float] = field(default_factory=dict)


@runtime_checkable
class Problem(Protocol):
    """What an optimizer sees of one step: it owns accumulation, clipping, gradient synchronisation and the bill.

    Each of its methods charges what it executes; an optimizer that computes more from what ``linearize`` gives says so
    by ``charge``.
    """

    def backward(self) -> Outcome:
        """Gradients of the mean loss of this step's batch into ``.grad``, clipped, checked to be finite."""

    def loss(self) -> float:
        """Mean loss of this step's batch at the present parameters, without gradients; nats a unit."""

    def resample(self) -> Outcome:
        """As ``backward``, but with this step's targets drawn from the model's own predictions, and unclipped.

        Raises:
            UsageError: the objective is not ``Resampling``.
        """

    def linearize(self) -> Sequence[tuple[Outputs, LossOf]]:
        """The problem split into model and loss (Gauss-Newton): loss(theta) = sum over batches of L_i(z_i(theta)).

        One pair a micro-batch: ``outputs(parameters)``, a pure function from {name: tensor} to the model's outputs z_i,
        and ``loss(outputs)``, its share of the step's mean loss; both for ``torch.func``.

        Raises:
            UsageError: the objective is not ``Linearizing``.
        """

    def fresh(self) -> Problem:
        """The same problem on data that this step has not used, for a line search; its bill is this one's."""

    def charge(self, forward: int = 0, backward: int = 0) -> None:
        """Charge passes over one micro-batch that the optimizer made itself."""


@runtime_checkable
class Optimizer(Protocol):
    """A training rule. Any plain ``torch.optim.Optimizer`` becomes one through the adapter of ``train``."""

    def step(self, problem: Problem) -> Outcome: ...
    def set_factor(self, factor: float) -> None: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any], /) -> None: ...


@dataclass(frozen=True)
class Passes:
    """Passes over single micro-batches.

    Args:
        forward: forward passes through the policy.
        backward: backward passes through it.
        losses: how many of the forward ones were a whole loss, with whatever else a loss costs (a teacher's pass).

    Example:
        >>> Passes(forward=2, backward=1).forward
        2
    """

    forward: int = 0
    backward: int = 0
    losses: int = 0

    def __sub__(self, other: Passes) -> Passes:
        return Passes(self.forward - other.forward, self.backward - other.backward, self.losses - other.losses)


class OptimizerPart(Part):
    """The training rule: how gradients change the parameters in a step.

    Class attributes:
        shardable: its step is the same on tensors of which each process holds a part.
    """

    slot: ClassVar[str] = "optimizer"
    provides: ClassVar[frozenset[type]] = frozenset({Stateful})
    shardable: ClassVar[bool] = False

    @abstractmethod
    def build(self, ctx: Context) -> torch.optim.Optimizer | Optimizer:
        """Make the optimizer over ``ctx.groups``."""

    @abstractmethod
    def cost(self, shapes: Sequence[Shape]) -> Cost:
        """Mean cost of one step beyond the loss's own gradient."""

    def cost_of(self, shapes: Sequence[Shape]) -> Callable[[int], Cost]:
        """Exact cost of the first n steps, as a function of n; by default all steps cost the same."""
        each = self.cost(shapes)
        return lambda steps: each * steps

    @abstractmethod
    def state_bytes(self, shapes: Sequence[Shape]) -> int:
        """Bytes of optimizer state."""

    def passes_of(self, accumulate: int) -> Callable[[int], Passes]:
        """Passes beyond the gradient's own in the first n steps, exactly, over single micro-batches; by default none.

        Args:
            accumulate: micro-batches of one step.
        """
        return lambda steps: Passes()


class SchedulePart(Part):
    """How the learning rate changes over the steps. A pure function, so the part is its own live object."""

    slot: ClassVar[str] = "schedule"
    needs_horizon: ClassVar[bool] = True

    @abstractmethod
    def factor(self, t: int, horizon: int) -> float:
        """What the learning rate is multiplied by at step ``t`` in [0, horizon)."""

    def shared(self, horizon: int, longer: int) -> int:
        """The first steps that runs of two lengths have in common: until there one may go on as the other.

        Args:
            horizon: steps of the shorter run.
            longer: steps of the longer one.
        """
        alike = (t for t in range(horizon) if self.factor(t, horizon) != self.factor(t, longer))
        return next(alike, horizon)

    def build(self, ctx: Context) -> SchedulePart:
        return self


@runtime_checkable
class Averaging(Protocol):
    """Averaged weights of the policy, for evaluation."""

    def update(self, t: int) -> None: ...
    def evaluation_weights(self) -> AbstractContextManager[None]: ...


class AveragingPart(Part):
    """Averages the policy's weights along the run."""

    slot: ClassVar[str] = "averaging"

    @abstractmethod
    def build(self, ctx: Context) -> Averaging: ...

    def cost(self, shapes: Sequence[Shape]) -> Cost:
        """Cost of one update."""
        return Cost()

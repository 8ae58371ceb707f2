"""The contract of what is minimised: the loss of a model on a batch, what it costs, and what else it may know."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from ..context import Context
from ..cost import Cost, Work
from ..registry import Part
from .data import Batch
from .filling import Filling
from .model import ModelPart
from .parametrization import Owned
from .pattern import Pattern

if TYPE_CHECKING:
    from torch import Tensor

Outputs = Callable[[Any], "Tensor"]
"""From parameters, {name: tensor}, to a model's outputs."""
LossOf = Callable[["Tensor"], "Tensor"]
"""From a model's outputs to a scalar."""


@dataclass(frozen=True)
class Loss:
    """What an objective returns.

    Args:
        total: differentiable scalar, the SUM over the batch's ``units``, in nats.
        terms: detached scalars to be logged, sums as well.
        spent: what else the loss cost, by ledger phase (a teacher's passes), beyond the policy's own work.
        kept: what a source that listens may want of the pass, detached, by name (see ``Listens``).

    Example:
        >>> import torch
        >>> Loss(torch.tensor(12.0), terms={"soft": torch.tensor(4.0)}).total.item()
        12.0
    """

    total: Tensor
    terms: Mapping[str, Tensor] = field(default_factory=dict)
    spent: Mapping[str, Cost] = field(default_factory=dict)
    kept: Mapping[str, Tensor] = field(default_factory=dict)


@runtime_checkable
class Listens(Protocol):
    """A stream of batches that reacts to losses (progressive masks, replay, prioritised sampling).

    What comes next depends on what was heard, so nobody can look ahead in it.
    """

    def learn(self, batch: Any, loss: Loss, /) -> None:
        """Hear the loss of a micro-batch in the first pass over it: once each, in their order, detached."""


@runtime_checkable
class Objective(Protocol):
    """The loss of a model on a batch; the models were given when it was built."""

    def loss(self, batch: Any, /) -> Loss: ...


@runtime_checkable
class Resampling(Protocol):
    """An objective whose targets can be drawn from the policy itself."""

    def resample(self, batch: Any, /) -> Batch:
        """The batch with targets drawn from the policy's predictions, by the batch's own random numbers."""


@runtime_checkable
class Linearizing(Protocol):
    """An objective that is a loss of the policy's outputs, and differentiable by ``torch.func`` in any way."""

    def linearize(self, batch: Any, /) -> tuple[Outputs, LossOf]:
        """``outputs(parameters)``, a pure function from the policy's {name: tensor} to its outputs, and
        ``loss(outputs)``, a scalar: the SUM over the batch's units, in nats."""


@runtime_checkable
class Likelihood(Protocol):
    """An objective that knows -log p of text under the policy, so that models of all kinds stand on one scale.

    Attributes:
        bound: what ``nll`` gives is an upper bound of -log p.
        how: where it is estimated, how, and from how many samples, as it reads after a value; need not be there.
    """

    bound: bool

    def nll(self, batch: Any, /) -> Loss:
        """Without gradient: -log p of the batch's targets, summed, in nats; ``spent`` is all that it cost."""


@dataclass(frozen=True)
class Guess:
    """What an objective predicts.

    Args:
        ids: int64 (batch, length), the likeliest id for each target.
        spent: all that predicting cost, by ledger phase.

    Example:
        >>> import torch
        >>> Guess(torch.tensor([[3, 1]]), {}).ids.shape
        torch.Size([1, 2])
    """

    ids: Tensor
    spent: Mapping[str, Cost]


@runtime_checkable
class Predicts(Protocol):
    """An objective whose policy predicts each token from those before it, so that its hits can be counted."""

    def predict(self, batch: Any, /) -> Guess:
        """Without gradient: the likeliest id at each position of the batch's targets, which are not looked at."""


class ObjectivePart(Part):
    """What is minimised: the loss of a batch."""

    slot: ClassVar[str] = "objective"

    @abstractmethod
    def build(self, ctx: Context) -> Objective:
        """Make the live objective of ``ctx.policy``."""

    @property
    def pattern(self) -> Pattern | None:
        """Who sees whom in the policy, by default None: causal."""
        return None

    @property
    def patterns(self) -> tuple[Pattern | None, ...]:
        """Every pattern that the policy is asked to obey; by default that one."""
        return (self.pattern,)

    @property
    def runs_every_variant(self) -> bool:
        """Whether a step's loss runs the policy in each of its variants, and so gives every parameter a gradient."""
        return False

    @property
    def extra_ids(self) -> int:
        """Token ids that it adds behind the text's, e.g. a mask; by default none."""
        return 0

    @property
    def owned(self) -> Owned | None:
        """What it adds to the policy, parameters of its own; by default nothing."""
        return None

    def owned_beside(self, models: Mapping[str, Any]) -> Owned | None:
        """``owned``, of one that must know the recipe's other models for that (by name, each with its ``model``)."""
        return self.owned

    def filling(self, vocab_size: int) -> Filling | None:
        """How its models fill in what is hidden; None: they do not, but write from left to right.

        Args:
            vocab_size: ids that the model knows, those that the objective adds included.
        """
        return None

    def work(self, model: ModelPart, batch: int, length: int, vocab_size: int) -> Work:
        """Work of the loss and its gradient on one micro-batch; by default one forward and backward of the model."""
        return model.work(batch, length, vocab_size, self.pattern)

    def charges(self, recipe: Any) -> Mapping[str, Cost]:
        """What the loss of one micro-batch costs beyond ``work``, by ledger phase (a teacher's passes); by default {}.

        It is what each ``Loss.spent`` will say, known before anything is built.
        """
        return {}

    def once(self, recipe: Any) -> Mapping[str, Cost]:
        """What a run's first loss costs beyond ``charges``, by ledger phase (curvature at the start); by default {}."""
        return {}

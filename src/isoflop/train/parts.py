"""The live parts of a run, and what is done to several of them at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch

from ..core.context import Context
from ..core.contracts import (
    PLACE,
    AddsGradient,
    Averaging,
    Batches,
    Curvature,
    Listens,
    Metric,
    Objective,
    Optimizer,
    SchedulePart,
    Source,
    Stateful,
    SwapsWeights,
    TakesCurvature,
    Timed,
)


@dataclass
class Parts:
    """The live parts of one run.

    Args:
        source: where the data come from.
        batches: its endless stream of micro-batches, at a position.
        model: the policy.
        objective: what is minimised.
        optimizer: the training rule.
        schedule: the learning rate's factor by step.
        averaging: averages of the weights, for evaluation; None: the optimizer's own.
        metrics: what evaluations measure, by the part's name; the first is the run's value.
    """

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

    @cached_property
    def penalties(self) -> list[Penalty]:
        """Weights whose parametrizations have a penalty of their own, each with the rule of its gradient."""
        return penalties(self.model)

    @cached_property
    def listener(self) -> Listens | None:
        """The stream, if it hears the losses of its batches."""
        return self.batches if isinstance(self.batches, Listens) else None

    @cached_property
    def remembering(self) -> Stateful | None:
        """The objective, if it holds state."""
        return self.objective if isinstance(self.objective, Stateful) else None

    @property
    def stateful(self) -> dict[str, Stateful]:
        """Those that hold state beside the model's weights, by the name under which a checkpoint keeps it."""
        candidates = {
            "batches": self.batches,
            "objective": self.objective,
            "optimizer": self.optimizer,
            "averaging": self.averaging,
        }
        return {name: part for name, part in candidates.items() if isinstance(part, Stateful)}


def timed(model: torch.nn.Module) -> list[Timed]:
    """The modules of a model that change with time."""
    return [module for module in model.modules() if isinstance(module, Timed)]


Penalty = tuple[torch.nn.Parameter, Callable[[torch.Tensor], torch.Tensor | None]]
"""A weight, and what is added to its gradient as a function of it."""


def penalties(model: torch.nn.Module) -> list[Penalty]:
    """Trained weights of a model whose parametrizations add to their gradient."""
    owners = [module for module in model.modules() if isinstance(getattr(module, PLACE, None), AddsGradient)]
    weights = [(module.get_parameter("weight"), getattr(module, PLACE)) for module in owners]
    return [(weight, partial(_own_gradient, own)) for weight, own in weights if weight.requires_grad]


def _own_gradient(own: AddsGradient, weight: torch.Tensor) -> torch.Tensor | None:
    """What is added to the gradient of a weight, which may be a gain (columns,); None: nothing yet."""
    found = own.own_gradient(weight if weight.ndim == 2 else weight[None])
    return None if found is None else found.view(weight.shape)


def give_curvature(model: torch.nn.Module, optimizer: Optimizer) -> None:
    """Tell the parametrizations that want it where their weight's curvature is to be had."""
    for module in model.modules():
        own = getattr(module, PLACE, None)
        if isinstance(own, TakesCurvature) and isinstance(optimizer, Curvature):
            own.take_curvature(partial(optimizer.curvature, module.get_parameter("weight")))


@contextmanager
def in_use(model: torch.nn.Module) -> Iterator[None]:
    """While entered, the model computes as it does in use: parametrizations give what they will be baked into."""
    before = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(before)


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


@dataclass(frozen=True)
class Watched(Context):
    """A context that keeps in mind whether a part asked how long the run is."""

    asked: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, ctx: Context, asked: list[str] | None = None) -> Watched:
        return cls(**vars(ctx), asked=[] if asked is None else asked)

    def __getattribute__(self, name: str) -> Any:
        if name == "horizon":
            super().__getattribute__("asked").append(name)
        return super().__getattribute__(name)

    def having(self, **changes: Any) -> Context:
        known = len(self.asked)
        copy = super().having(**changes)
        del self.asked[known:]  # to copy is not to ask
        return copy

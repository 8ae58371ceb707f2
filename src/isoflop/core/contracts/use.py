"""The contracts of using a model: decoding and measuring."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

from pydantic import NonNegativeInt

from ..context import Context
from ..cost import Cost
from ..registry import Part
from ..rng import Rng
from .data import HeldOut
from .training import Objective


@dataclass(frozen=True)
class Measurement:
    """A measured value.

    Args:
        value: in ``unit``.
        stderr: its standard error over ``n`` units; None: too few to tell.
        n: how many units it is over.
        unit: e.g. "bits per byte".
        bound: it is an upper bound of what it stands for.
        domains: the same, broken down.
        cost: what measuring cost.
    """

    value: float
    stderr: float | None
    n: int
    unit: str = ""
    bound: bool = False
    domains: Mapping[str, Measurement] = field(default_factory=dict)
    cost: Cost = field(default_factory=Cost)

    def __str__(self) -> str:
        return f"{self.value:.4f}" + ("" if self.stderr is None else f" +- {self.stderr:.4f}")


@runtime_checkable
class Decoder(Protocol):
    """From a model to samples: ``prompts`` and results are lists of token ids, ``budget`` new tokens a prompt."""

    def generate(self, model: Any, prompts: Sequence[Sequence[int]], budget: int, rng: Rng) -> list[list[int]]: ...


class DecoderPart(Part):
    """A way to write with a model."""

    slot: ClassVar[str] = "decoder"

    stop: NonNegativeInt | None = None
    """Token id that ends a sample and is no part of it."""

    @abstractmethod
    def build(self, ctx: Context | None = None) -> Decoder: ...


@dataclass(frozen=True)
class Subject:
    """What a metric measures.

    Args:
        model: the policy, holding the weights that are to be evaluated.
        objective: what it was trained for; a ``Likelihood`` knows -log p of text under it.
        ctx: what both were built with, its other models included.
    """

    model: Any
    objective: Objective
    ctx: Context


@runtime_checkable
class Metric(Protocol):
    """Evaluation of any kind."""

    def measure(self, subject: Subject, data: Mapping[str, HeldOut], rng: Rng) -> Measurement:
        """Measure without changing anything.

        Args:
            subject: model and objective.
            data: the source's held-out data by domain.
            rng: the metric's own stream of random numbers.
        """


class MetricPart(Part):
    """A way to measure a model."""

    slot: ClassVar[str] = "metric"

    @abstractmethod
    def build(self, ctx: Context) -> Metric: ...

"""The contracts of using a model: decoding and measuring."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from pydantic import NonNegativeInt, PositiveInt

from ..context import Context
from ..cost import Cost
from ..registry import Part
from ..rng import Rng
from ..scale import Scale
from .data import HeldOut
from .filling import Filling
from .objective import Objective


@dataclass(frozen=True)
class Measurement:
    """A measured value.

    Args:
        value: on the scale of its metric's part.
        stderr: its standard error; None: too little text to tell.
        n: how many of what the part ``counts`` it is over; a mean over domains weighs them by it.
        bound: it is a bound: what it stands for is at least as good.
        domains: the same, broken down.
        cost: what measuring cost.
        how: how it was estimated, as it reads after a value; "" where nothing was.

    Example:
        >>> Measurement(value=2.1, stderr=0.01, n=4000).bound
        False
    """

    value: float
    stderr: float | None
    n: int
    bound: bool = False
    domains: Mapping[str, Measurement] = field(default_factory=dict)
    cost: Cost = field(default_factory=Cost)
    how: str = ""


Ended = Literal["stop", "told", "budget"]
"""Why a sample ends: its stop came, or an inserting model wanted no more; its listener said so; its budget is spent."""


@dataclass(frozen=True)
class Completion:
    """A sample: what follows a prompt.

    Args:
        prompt: number of the prompt.
        sample: number among the prompt's samples.
        ids: the new ids, without the prompt and without the stop.
        logprobs: natural log-probability of each under the model itself; empty where nobody asked.
        ended: why it ends.
        cost: of the model's passes for it, where the decoder tells.
        calls: how many those were.
        figures: what else the decoder has to tell of it, by name.
        gaps: how many of the ids came in each gap of a template, where that was the decoder's to say.
    """

    prompt: int
    sample: int
    ids: list[int]
    logprobs: list[float]
    ended: Ended
    cost: Cost = field(default_factory=Cost)
    calls: int = 0
    figures: Mapping[str, float] = field(default_factory=dict)
    gaps: Sequence[int] = ()


class Listener(Protocol):
    """Is told each new token as it comes, and ends its sample by returning True."""

    def __call__(self, prompt: int, sample: int, token: int, /) -> bool: ...


@runtime_checkable
class Decoder(Protocol):
    """From a model to samples: prompts are lists of token ids, ``budget`` new tokens a sample at most.

    What is drawn for a sample depends on ``rng``, on its prompt's number and on its own, never on what else is decoded.
    ``generate`` gives the new ids alone.
    """

    def generate(self, model: Any, prompts: Sequence[Sequence[int]], budget: int, rng: Rng) -> list[list[int]]: ...

    def complete(
        self,
        model: Any,
        prompts: Iterable[Sequence[int]],
        budget: int,
        rng: Rng,
        *,
        first: int = 0,
        listen: Listener | None = None,
    ) -> Iterator[Completion]:
        """Samples in the order of their prompts, whose numbers begin with ``first``."""


class DecoderPart(Part):
    """How text is written with a model."""

    slot: ClassVar[str] = "decoder"

    stop: NonNegativeInt | None = None
    """Token id that ends a sample and is no part of it."""
    ids: PositiveInt | None = None
    """Ids that may be chosen: none from there on, as an objective's mask or padding; by default all of the model's."""

    @abstractmethod
    def build(self, ctx: Context | None = None) -> Decoder: ...

    @property
    def others(self) -> Mapping[str, str]:
        """Other models that it wants in ``ctx.models``: by name the run or directory of each. By default none."""
        return {}

    def misfit(self, filling: Filling | None) -> str:
        """Why it cannot write with a model of such conventions, as a sentence's end; "" if it can.

        Args:
            filling: how the model fills in what is hidden; None: it writes from left to right, as by default a decoder.
        """
        return "" if filling is None else "writes from left to right, and the model fills in what is hidden; use margin"


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
    """How a model is measured.

    Class attributes:
        unit: what its values are, as it reads after a number, e.g. "bits per byte"; default: the part's name.
        higher_is_better: which way is better.
        counts: what a measurement's ``n`` counts, e.g. "bytes".
    """

    slot: ClassVar[str] = "metric"
    unit: ClassVar[str] = ""
    higher_is_better: ClassVar[bool] = False
    counts: ClassVar[str] = "units"

    @property
    def scale(self) -> Scale:
        """What its values are measured on."""
        return Scale(type(self).unit or type(self).name.replace("_", " "), type(self).higher_is_better)

    def record(self, measured: Measurement) -> dict[str, Any]:
        """What a run keeps of a measurement, as JSON values; a domain keeps its value alone."""
        domains = {name: domain.value for name, domain in measured.domains.items()}
        figures = {"value": measured.value, "stderr": measured.stderr, "n": measured.n, "bound": measured.bound}
        return {**figures, **asdict(self.scale), "domains": domains} | ({"how": measured.how} if measured.how else {})

    @abstractmethod
    def build(self, ctx: Context) -> Metric: ...

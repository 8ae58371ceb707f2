"""The contract of every slot: what the live object must do, and the base class of the part that builds it.

A slot's live object has at most three required methods. Whatever goes beyond is a named capability below, which a part
declares in ``provides``; a recipe that needs a missing one is refused by name before anything is allocated.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from pydantic import NonNegativeInt

from .context import Context
from .cost import Cost, Work
from .registry import Part
from .rng import Rng
from .roles import Shape

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# ---------------------------------------------------------------- what passes between parts


@dataclass(frozen=True)
class Batch:
    """One micro-batch: ``inputs`` and ``targets``, int64 (batch, length); ``targets[i, t]`` follows ``inputs[i, t]``.

    ``text_bytes`` is the UTF-8 length of the targets' text. ``mask`` (bool, same shape; None means all) marks the
    targets that count.
    """

    inputs: Tensor
    targets: Tensor
    text_bytes: int
    mask: Tensor | None = None

    @property
    def tokens(self) -> int:
        """Targets that count."""
        return int(self.targets.numel() if self.mask is None else self.mask.sum())


@dataclass(frozen=True)
class Loss:
    """What an objective returns: ``total`` is a differentiable scalar, the SUM over ``tokens`` targets, in nats.

    ``terms`` are detached scalars to be logged (sums as well).
    """

    total: Tensor
    tokens: int
    text_bytes: int
    terms: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What an optimizer reports of one step: loss in nats a token, the gradient's norm before clipping."""

    loss: float
    grad_norm: float
    tokens: int
    text_bytes: int
    terms: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Measurement:
    """A value with its standard error over ``n`` units (None: too few to tell); ``domains`` breaks it down; ``bound``
    marks an upper bound."""

    value: float
    stderr: float | None
    n: int
    unit: str = ""
    bound: bool = False
    domains: Mapping[str, Measurement] = field(default_factory=dict)
    cost: Cost = field(default_factory=Cost)

    def __str__(self) -> str:
        return f"{self.value:.4f}" + ("" if self.stderr is None else f" +- {self.stderr:.4f}")


Outputs = Callable[[Any], "Tensor"]
"""From parameters, {name: tensor}, to a model's outputs."""
LossOf = Callable[["Tensor"], "Tensor"]
"""From a model's outputs to a scalar."""

# ---------------------------------------------------------------- capabilities


@runtime_checkable
class Stateful(Protocol):
    """Has state that a checkpoint must keep: nested dicts of tensors and JSON values."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any], /) -> Any: ...


@runtime_checkable
class Cacheable(Protocol):
    """A model that can decode step by step."""

    def make_cache(self, batch: int, capacity: int) -> Any: ...
    def step(self, tokens: Tensor, cache: Any) -> Tensor: ...


CAPABILITIES = (
    "Stateful",
    "Cacheable",
    "NeedsModels",
    "Sliceable",
    "Shardable",
    "Finalizable",
    "Resampling",
    "Linearizing",
)
"""What a part may say that it provides, or needs of another slot's part."""


# ---------------------------------------------------------------- the slots


@runtime_checkable
class Batches(Protocol):
    """An endless, deterministic stream of micro-batches whose position is its state."""

    def __next__(self) -> Batch: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any], /) -> None: ...


@runtime_checkable
class HeldOut(Protocol):
    """Held-out text of one domain, as whole documents: each token of it is predicted exactly once.

    ``windows(length, batch)`` yields batches that cover it in order; positions behind the end are masked out.
    """

    text_bytes: int

    def windows(self, length: int, batch: int) -> Iterator[Batch]: ...


@runtime_checkable
class Source(Protocol):
    """Live data. ``fingerprint`` changes whenever any document, the split or the tokenizer does."""

    fingerprint: str

    def batches(self, ctx: Context) -> Batches: ...
    def heldout(self) -> Mapping[str, HeldOut]: ...


class SourcePart(Part):
    slot: ClassVar[str] = "source"

    @property
    def vocab_size(self) -> int | None:
        """Token ids it emits when it has a vocabulary of its own; None: the recipe's tokenizer decides."""
        return None

    @abstractmethod
    def build(self, ctx: Context) -> Source: ...


@runtime_checkable
class Tokenizer(Protocol):
    """Text <-> ids. ``eot`` separates documents; ``byte_lengths`` (vocab_size,) int64 is each id's UTF-8 length."""

    vocab_size: int
    eot: int
    byte_lengths: npt.NDArray[np.int64]

    def encode(self, text: str) -> npt.NDArray[np.int64]: ...
    def decode(self, ids: Sequence[int]) -> str: ...


class TokenizerPart(Part):
    slot: ClassVar[str] = "tokenizer"

    @property
    @abstractmethod
    def vocabulary(self) -> int:
        """Number of ids including the end-of-text one, known before any text is read."""

    @abstractmethod
    def build(self, ctx: Context, texts: Iterator[str]) -> Tokenizer:
        """Make the live tokenizer, trained on ``texts`` if it is one that trains."""


TOKENIZER = "tokenizer.json"
"""The file that a corpus and a checkpoint keep of a ``Storable`` tokenizer."""


@runtime_checkable
class Storable(Protocol):
    """A live tokenizer that its part cannot make again from its fields: it was trained, or read from a file."""

    def save(self, path: Path) -> None:
        """Write the file from which ``LoadsTokenizer.load`` makes it again."""


@runtime_checkable
class LoadsTokenizer(Protocol):
    """The part of a ``Storable`` tokenizer."""

    def load(self, path: Path) -> Tokenizer: ...


@runtime_checkable
class Model(Protocol):
    """A ``torch.nn.Module`` over token ids.

    ``forward(tokens, mask)`` gives logits (batch, length, vocab); ``hidden`` the (batch, length, width) vectors before
    the head, and ``head`` its weight (vocab, width), for losses that never hold all logits. ``mask`` None is causal.
    ``flops(batch, length)`` is the exact work of one forward and backward.
    """

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor: ...
    def hidden(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor: ...
    def flops(self, batch: int, length: int) -> Work: ...


class ModelPart(Part):
    slot: ClassVar[str] = "model"

    @abstractmethod
    def build(self, ctx: Context) -> torch.nn.Module: ...

    @abstractmethod
    def work(self, batch: int, length: int, vocab_size: int) -> Work:
        """Exact work of one forward and backward of a micro-batch, without building the model."""

    @abstractmethod
    def shapes(self, vocab_size: int) -> list[Shape]:
        """Names, roles and shapes of all parameters, without building the model."""


class MixerPart(Part):
    """Sub-slot of a model: what moves information between positions.

    Its module has ``weights(dtype)``, the matrices cast for products, and ``forward(x, weights, mask, cache)`` on
    (batch, length, width) vectors; a Cacheable one ``make_cache(batch, capacity, dtype)``, whose result has
    ``length`` and ``truncate(length)``.
    """

    slot: ClassVar[str] = "mixer"

    @abstractmethod
    def build(self, width: int, ctx: Context) -> torch.nn.Module: ...

    @abstractmethod
    def shapes(self, width: int) -> list[Shape]:
        """Names, roles and shapes of its parameters, without building it."""

    @abstractmethod
    def work(self, batch: int, length: int, width: int) -> Work:
        """Exact work of one forward and backward."""

    def problems(self, width: int) -> list[str]:
        """Why it cannot be built at this width, each "key: what; what to do"."""
        return []


class FeedForwardPart(Part):
    """Sub-slot of a model: what is computed at each position.

    Its module has ``weights(dtype)``, the matrices cast for products, and ``forward(x, weights)`` on
    (batch, length, width) vectors.
    """

    slot: ClassVar[str] = "feed_forward"

    @abstractmethod
    def build(self, width: int, ctx: Context) -> torch.nn.Module: ...

    @abstractmethod
    def shapes(self, width: int) -> list[Shape]:
        """Names, roles and shapes of its parameters, without building it."""

    @abstractmethod
    def work(self, batch: int, length: int, width: int) -> Work:
        """Exact work of one forward and backward."""


@runtime_checkable
class Objective(Protocol):
    """Loss of ``ctx.policy`` (and other models of ctx) on a batch."""

    def loss(self, batch: Batch, ctx: Context) -> Loss: ...


@runtime_checkable
class Resampling(Protocol):
    """An objective whose targets can be drawn from the policy itself."""

    def resample(self, batch: Batch, ctx: Context, rng: Rng, step: int) -> Batch:
        """The batch with targets drawn from the policy's predictions, the same for the same (rng, step)."""


@runtime_checkable
class Linearizing(Protocol):
    """An objective that is a loss of the policy's outputs, and differentiable by ``torch.func`` in any way."""

    def linearize(self, batch: Batch, ctx: Context) -> tuple[Outputs, LossOf]:
        """``outputs(parameters)``, a pure function from the policy's {name: tensor} to its outputs, and
        ``loss(outputs)``, a scalar: the SUM over the batch's targets, in nats."""


class ObjectivePart(Part):
    slot: ClassVar[str] = "objective"

    @abstractmethod
    def build(self, ctx: Context) -> Objective: ...

    def work(self, model: ModelPart, batch: int, length: int, vocab_size: int) -> Work:
        """Work of the loss and its gradient on one micro-batch; by default one forward and backward of the model."""
        return model.work(batch, length, vocab_size)


@runtime_checkable
class Problem(Protocol):
    """What an optimizer sees of one step: it owns accumulation, clipping and gradient synchronisation."""

    def backward(self) -> Outcome:
        """Gradients of the mean loss of this step's batch into ``.grad``, clipped, checked to be finite."""

    def loss(self) -> float:
        """Mean loss of this step's batch at the present parameters, without gradients; nats a token."""


@runtime_checkable
class Resamples(Problem, Protocol):
    """A problem whose targets can be drawn from the model itself (Sophia-G's estimate of the Gauss-Newton diagonal)."""

    def resample(self) -> Outcome:
        """As ``backward``, but with this step's targets drawn from the model's own predictions, and unclipped."""


@runtime_checkable
class Linearizes(Problem, Protocol):
    """A problem split into model and loss (Gauss-Newton): loss(theta) = sum over batches of L_i(z_i(theta))."""

    def linearize(self) -> Sequence[tuple[Outputs, LossOf]]:
        """One pair a micro-batch: ``outputs(parameters)``, a pure function from {name: tensor} to the model's outputs
        z_i, and ``loss(outputs)``, its share of the step's mean loss; both for ``torch.func``."""

    def fresh(self) -> Problem:
        """The same problem on data that this step has not used, for a line search."""


@runtime_checkable
class SwapsWeights(Protocol):
    """An optimizer that trains at one point and is evaluated at another."""

    def evaluation_weights(self) -> AbstractContextManager[None]: ...


@runtime_checkable
class Optimizer(Protocol):
    """A training rule. Any plain ``torch.optim.Optimizer`` becomes one through the adapter of ``train``."""

    def step(self, problem: Problem) -> Outcome: ...
    def set_factor(self, factor: float) -> None: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any], /) -> None: ...


class OptimizerPart(Part):
    slot: ClassVar[str] = "optimizer"
    provides: ClassVar[frozenset[str]] = frozenset({"Stateful"})

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

    def passes(self, accumulate: int) -> tuple[float, float]:
        """(forward, backward) passes over the step's whole batch beyond the gradient's own, on average a step."""
        return 0.0, 0.0


class SchedulePart(Part):
    """A pure function of the step: the part is its own live object."""

    slot: ClassVar[str] = "schedule"
    needs_horizon: ClassVar[bool] = True

    @abstractmethod
    def factor(self, t: int, horizon: int) -> float:
        """What the learning rate is multiplied by at step ``t`` in [0, horizon)."""

    def build(self, ctx: Context) -> SchedulePart:
        return self


@runtime_checkable
class Averaging(Protocol):
    """Averaged weights of the policy, for evaluation."""

    def update(self, t: int) -> None: ...
    def evaluation_weights(self) -> AbstractContextManager[None]: ...


class AveragingPart(Part):
    slot: ClassVar[str] = "averaging"

    @abstractmethod
    def build(self, ctx: Context) -> Averaging: ...

    def cost(self, shapes: Sequence[Shape]) -> Cost:
        """Cost of one update."""
        return Cost()


@runtime_checkable
class Decoder(Protocol):
    """From a model to samples: ``prompts`` and results are lists of token ids, ``budget`` new tokens a prompt."""

    def generate(self, model: Any, prompts: Sequence[Sequence[int]], budget: int, rng: Rng) -> list[list[int]]: ...


class DecoderPart(Part):
    slot: ClassVar[str] = "decoder"

    stop: NonNegativeInt | None = None
    """Token id that ends a sample and is no part of it."""

    @abstractmethod
    def build(self, ctx: Context | None = None) -> Decoder: ...


@runtime_checkable
class Metric(Protocol):
    """Evaluation of any kind; ``data`` is the source's held-out data by domain."""

    def measure(self, model: Any, data: Mapping[str, HeldOut], rng: Rng) -> Measurement: ...


class MetricPart(Part):
    slot: ClassVar[str] = "metric"

    @abstractmethod
    def build(self, ctx: Context) -> Metric: ...


class LawPart(Part):
    """A scaling law y = f(parameters, columns): a pure function, so the part is its own live object."""

    slot: ClassVar[str] = "law"
    columns: ClassVar[dict[str, str]] = {}
    target: ClassVar[str] = "loss"

    @abstractmethod
    def predict(self, p: Mapping[str, npt.NDArray[Any]], x: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[Any]:
        """Predictions (k, n) in the target's units for k parameter sets, each (k, 1), at the columns ``x``, each (n,).

        Parameters may be complex (that is how gradients are taken): use numpy's analytic functions.
        """

    def build(self, ctx: Context | None = None) -> LawPart:
        return self

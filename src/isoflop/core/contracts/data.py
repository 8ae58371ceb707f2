"""The contracts of data: what a batch is, where batches come from, and what is held out."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from ..context import Context
from ..cost import Cost
from ..registry import Part
from ..rng import Rng

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Draws:
    """The random numbers of one micro-batch: equal for equal (seed, step, number), whatever was drawn before.

    Args:
        root: the stream below which names are taken, e.g. the run's own.
        step: the step that the micro-batch belongs to.
        number: the micro-batch's number within its step.
        first: number of the batch's first row within the micro-batch, where it holds only some of them.

    Example:
        >>> draws = Draws(Rng(0), step=3, number=1)
        >>> draws.at("mask").random() == Draws(Rng(0), step=3, number=1).at("mask").random()
        True
    """

    root: Rng
    step: int = 0
    number: int = 0
    first: int = 0

    def at(self, name: str, row: int = 0) -> np.random.Generator:
        """A fresh generator for the purpose ``name`` and one row of the batch."""
        return self.root(name)(str(self.number)).at(self.step, self.first + row)


@runtime_checkable
class Batch(Protocol):
    """One micro-batch, as the loop and the ledger see it; what else it holds is between its source and its objective.

    Use ``TokenBatch`` for windows of text. Write a class of your own where an example is something else, say a pair of
    answers: the loop needs these five figures of it and no more.

    Attributes:
        units: what the step's mean loss is over, and so its divisor: targets, pairs, sequences; known in advance.
        tokens: what it adds to the ledger's axis "tokens".
        text_bytes: UTF-8 bytes of the text that is predicted.
        draws: its own random numbers; None until the step hands it out (``drawing``).
        spent: what making it cost, by ledger phase (rollouts, scoring); usually nothing.
    """

    @property
    def units(self) -> int: ...
    @property
    def tokens(self) -> int: ...
    @property
    def text_bytes(self) -> int: ...
    @property
    def draws(self) -> Draws | None: ...
    @property
    def spent(self) -> Mapping[str, Cost]: ...
    def drawing(self, draws: Draws) -> Batch:
        """The same batch with its random numbers."""


@dataclass(frozen=True)
class TokenBatch:
    """Windows of token ids and the ids that follow them.

    Args:
        inputs: int64 (batch, length).
        targets: int64 (batch, length); ``targets[i, t]`` follows ``inputs[i, t]``.
        text_bytes: UTF-8 bytes of the targets that count.
        mask: bool (batch, length), True where a target counts; None: all do.
        columns: further tensors by name, first dimension batch; ``documents`` (int64 (batch, length)) numbers the
            document of each input.
        draws: its own random numbers; None until the step hands it out (see ``Batch``).
        spent: what making it cost, by ledger phase.

    Example:
        >>> import torch
        >>> ids = torch.tensor([[5, 6, 7, 8]])
        >>> TokenBatch(ids[:, :-1], ids[:, 1:], text_bytes=3).units
        3
    """

    inputs: Tensor
    targets: Tensor
    text_bytes: int
    mask: Tensor | None = None
    columns: Mapping[str, Tensor] = field(default_factory=dict)
    draws: Draws | None = None
    spent: Mapping[str, Cost] = field(default_factory=dict)

    @property
    def units(self) -> int:
        """Targets that count."""
        return int(self.targets.numel() if self.mask is None else self.mask.sum())

    @property
    def tokens(self) -> int:
        """Targets that count: each is predicted once."""
        return self.units

    def drawing(self, draws: Draws) -> TokenBatch:
        """The same batch with its random numbers."""
        return replace(self, draws=draws)

    def to(self, device: str) -> TokenBatch:
        """The same batch on a device."""
        mask = None if self.mask is None else self.mask.to(device)
        columns = {name: column.to(device) for name, column in self.columns.items()}
        inputs, targets = self.inputs.to(device), self.targets.to(device)
        return replace(self, inputs=inputs, targets=targets, mask=mask, columns=columns)


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

    def windows(self, length: int, batch: int) -> Iterator[TokenBatch]: ...


@runtime_checkable
class Source(Protocol):
    """Live data. ``fingerprint`` changes whenever any document, the split or the tokenizer does."""

    fingerprint: str

    def batches(self, ctx: Context) -> Batches: ...
    def heldout(self) -> Mapping[str, HeldOut]: ...


@runtime_checkable
class KeepsText(Protocol):
    """A source part whose data of old can be had again from the cache, whatever became of the files they came from.

    So a run can be evaluated on the text that it held out, though its folder has grown since.
    """

    def kept(self, fingerprint: str, ctx: Context) -> Source | None:
        """The source with that fingerprint; None where the cache does not hold it (any more)."""


class SourcePart(Part):
    """Where training and held-out data come from."""

    slot: ClassVar[str] = "source"

    @property
    def vocab_size(self) -> int | None:
        """Token ids it emits when it has a vocabulary of its own; None: the recipe's tokenizer decides."""
        return None

    @property
    def predicts_all(self) -> bool:
        """Whether every target of its training batches counts; otherwise a batch's shape says its tokens at most."""
        return True

    @abstractmethod
    def build(self, ctx: Context) -> Source: ...

"""The contract of a transform: one trained model in, one out."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar, Protocol

from ..cost import Cost
from ..registry import Part
from .pattern import Pattern
from .slicing import PlainModel

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Calibration(Protocol):
    """Text on which a transform watches a model: from the run's own source, and no more of it than is asked for.

    Attributes:
        pattern: who sees whom in it; None is causal.
    """

    pattern: Pattern | None

    def tokens(self, windows: int, seed: int) -> Tensor:
        """int64 (windows, length): the same for the same numbers."""

    def live(self, model: PlainModel) -> torch.nn.Module:
        """The model for use."""

    def charge(self, cost: Cost) -> None:
        """Enter what watching it cost into the bill."""


class TransformPart(Part):
    """Changes a trained model: its weights, or its shape and its weights.

    Class attributes:
        stores: whether it says in how many bits weights are stored; it is the last one then.
    """

    slot: ClassVar[str] = "transform"
    stores: ClassVar[bool] = False

    @property
    def watches(self) -> bool:
        """Whether it looks at the model on text; by default not."""
        return False

    def shaped(self, model: PlainModel) -> PlainModel:
        """The architecture of what it makes, before any weight is known: by default the same."""
        return model

    @abstractmethod
    def transform(self, model: PlainModel, text: Calibration | None) -> PlainModel:
        """The model as it becomes; the one that is given stays as it is.

        Args:
            model: all of it finite.
            text: what to watch it on; None where there is none, or the part does not watch.

        Raises:
            UsageError: there is nothing that it changes, or it cannot change it so.
        """

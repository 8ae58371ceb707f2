"""What an inspection of models before a merge found: written by ``merge``, read by ``report``."""

from __future__ import annotations

from pathlib import Path

from ..core.documents import Frozen
from ..core.files import write_json
from ..core.reading import read_json

INSPECTION = "inspection.json"


class TensorFacts(Frozen):
    """A tensor's task vectors d_i = model_i - base.

    Example:
        >>> facts = TensorFacts(name="w", layer=0, numel=4, distances=(1.0, 2.0), ranks=(1.0, 1.0), cosine=0.1,
        ...                     conflict=0.4, cancelled=0.2, magnitude=0.5)
        >>> facts.conflict
        0.4
    """

    name: str
    layer: int | None
    """None: outside the layers."""
    numel: int
    distances: tuple[float, ...]
    """|d_i| / |base| of each model."""
    ranks: tuple[float | None, ...]
    """Stable rank |d_i|_F^2 / |d_i|_2^2 of each model's matrix; None: no matrix, or no difference."""
    cosine: float | None
    """Mean cosine of two task vectors; None: fewer than two differ."""
    conflict: float
    """Share of the elements that at least two models change in which their signs differ."""
    cancelled: float
    """Share of the task vectors' summed magnitude that is gone in their sum: 1 - |sum d_i|_1 / sum |d_i|_1."""
    magnitude: float
    """sum |d_i|_1: how much there is to lose."""


class Inspection(Frozen):
    """Models beside their base, tensor by tensor, before anything is merged.

    Example:
        >>> Inspection(base="base", models=("a", "b"), tensors=(), layers=()).interfering()
        []
    """

    base: str
    models: tuple[str, ...]
    tensors: tuple[TensorFacts, ...]
    layers: tuple[TensorFacts, ...]
    """The same for each layer as a whole, and for what lies outside the layers; without ranks."""

    def write(self, directory: Path) -> None:
        """Write ``inspection.json`` into a directory."""
        write_json(directory / INSPECTION, self.model_dump(mode="json"))

    @classmethod
    def read(cls, path: Path) -> Inspection:
        """Read it. DataError if it is not one."""
        found: Inspection = read_json(path, cls)
        return found

    def interfering(self, count: int = 10) -> list[TensorFacts]:
        """The tensors in which most magnitude is lost when the task vectors are added, the worst first."""
        lost = sorted(self.tensors, key=lambda facts: -facts.cancelled * facts.magnitude)
        return [facts for facts in lost if facts.cancelled > 0][:count]

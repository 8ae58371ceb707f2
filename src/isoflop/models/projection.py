"""A map from a model's vectors to those of another width, which an objective may add to its policy."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from ..core.contracts import OWNED, ModelPart
from ..core.cost import Work
from ..core.rng import Rng
from ..core.roles import Shape, width_of
from ..ledger import formulas
from .layers import Matrix, initialise, matrix_shapes
from .pricing import vectors_live


class Projection(nn.Module):
    """x -> x W', from vectors of one width to those of another, in the vectors' own type.

    Args:
        width: of the vectors.
        wanted: width of the result.

    Example:
        >>> import torch
        >>> Projection(32, 48)(torch.zeros(2, 5, 32)).shape
        torch.Size([2, 5, 48])
    """

    def __init__(self, width: int, wanted: int) -> None:
        super().__init__()
        self.map = Matrix(wanted, width)

    def forward(self, vectors: Tensor) -> Tensor:
        projected: Tensor = self.map.product(vectors.dtype)(vectors)
        return projected


@dataclass(frozen=True)
class OwnsProjection:
    """The projection as what an objective adds to its policy (``core.contracts.Owned``); nothing where widths agree.

    Args:
        wanted: width of the result.

    Example:
        >>> [shape.shape for shape in OwnsProjection(48).shapes(32)], OwnsProjection(32).shapes(32)
        ([(48, 32)], [])
    """

    wanted: int

    def build(self, width: int, rng: Rng) -> nn.Module:
        """The projection, beside a model whose vectors are ``width`` wide."""
        if width == self.wanted:
            return nn.Identity()
        made = Projection(width, self.wanted)
        initialise(made, rng, 1.0)
        return made

    def shapes(self, width: int) -> list[Shape]:
        """Names, roles and shapes of its parameters."""
        return [] if width == self.wanted else matrix_shapes("map", self.wanted, width)

    def work(self, model: ModelPart, vectors: int, vocab_size: int) -> Work:
        """Exact work of its forward and backward on ``vectors`` vectors of a model."""
        own, treatment = model.shapes(vocab_size), model.treatment
        width = width_of(own)
        if width == self.wanted:
            return Work()
        trained = treatment.trains(Shape(f"{OWNED}.map.weight", "hidden", (self.wanted, width)))
        live = vectors_live(model, vocab_size)
        return formulas.linear(vectors, width, self.wanted, input_gradient=live, weight_gradient=trained)

"""SLERP: along the arc between two models' directions, flattened (Shoemake 1985)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from ...core.registry import Card, part
from ...core.rng import Rng
from ...store.tensors import Flat
from ..method import MergePart, combination, gram, held

_NEARLY_PARALLEL = 0.9995
"""Beyond this cosine the arc is taken to be straight."""


def slerp(base: Tensor, model: Tensor, *, t: float) -> Tensor:
    """The point at share ``t`` of the arc from ``base`` to ``model``; a straight line where they are nearly parallel.

    Use it with two models that shall keep the length of their weights: a straight mean shortens it.

    Args:
        base: where t = 0.
        model: where t = 1; of the base's shape.
        t: share of the way; any number.

    Example:
        >>> base, model = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
        >>> [round(number, 3) for number in slerp(base, model, t=0.5).tolist()]
        [0.707, 0.707]
    """
    flat, models = held(base, [model])
    return combination([base, model], _coefficients(flat, models[0], t))


def _coefficients(base: Flat, model: Flat, t: float) -> tuple[float, float]:
    products = gram([base, model])
    lengths = products.diagonal().sqrt()
    lengths[lengths <= 1e-8] = 1.0
    cosine = max(-1.0, min(1.0, float(products[0, 1] / (lengths[0] * lengths[1]))))
    if abs(cosine) > _NEARLY_PARALLEL:
        return 1 - t, t
    angle = math.acos(cosine)
    return math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)


@part
class Slerp(MergePart):
    """Along the arc between two models.

    The method of a merge recipe under the name ``slerp``; the function of that name does the same to tensors at hand.

    Example:
        >>> from isoflop.merge.method import on_tensors
        >>> base, model = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
        >>> torch.equal(on_tensors(Slerp(t=0.5), base, [model]), slerp(base, model, t=0.5))
        True
    """

    card = Card(
        summary="along the arc between two models' directions; t = 0 is the base",
        paper="Shoemake 1985",
        equation="(sin((1-t) a) x0 + sin(t a) x1) / sin a, a = angle(x0, x1) of the flattened tensors",
        differs="norms and angle in float64; beyond a cosine of 0.9995 a straight line, as is customary",
        cost="a reading for the angle, then 2 operations an element and model",
    )
    models: ClassVar[tuple[int, int | None]] = (1, 1)

    t: float
    """Share of the way from the base to the model."""

    def survey(self, base: Flat | None, models: Sequence[Flat], rng: Rng, overview: Any) -> tuple[float, float]:
        assert base is not None
        return _coefficients(base, models[0], self.t)

    def merge(self, base: Tensor | None, models: Sequence[Tensor], survey: Any, start: int) -> Tensor:
        assert base is not None
        return combination([base, models[0]], survey)

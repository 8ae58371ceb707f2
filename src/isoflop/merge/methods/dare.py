"""DARE as published: drop entries at random and divide the rest by the density (Yu et al. 2024, arXiv 2311.03099)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ...core.registry import Card, part
from ...core.rng import Rng
from ...store.tensors import Flat
from ..families import DroppedPart
from ..method import Each, Share, numbers, on_tensors, per_model


def dare(
    base: Tensor,
    models: Sequence[Tensor],
    *,
    rng: Rng,
    weight: Each = 1.0,
    density: Share = 1.0,
    rescale: bool = True,
    normalize: bool = False,
    scale: float = 1.0,
) -> Tensor:
    """Drop entries of each task vector at random, divide the rest by the density, and add them.

    Use it with large language models, of whose task vectors nine tenths of the entries may be spared.

    Args:
        base: what the task vectors start from.
        models: tensors of the base's shape.
        rng: stream of this tensor; equal streams give equal masks, whatever else is drawn.
        weight: one number, or one a model.
        density: probability with which an entry is kept; one number, or one a model.
        rescale: divide what is kept by its density, so that the mean is as before.
        normalize: divide by the sum of the weights.
        scale: multiplies the merged task vector.

    Example:
        >>> base = torch.zeros(4)
        >>> first, second = torch.tensor([1.0, 2.0, 0.5, -1.0]), torch.tensor([-3.0, 2.0, 0.25, 1.0])
        >>> dare(base, [first, second], rng=Rng(0), density=0.5).tolist()
        [2.0, 4.0, 0.5, 2.0]
    """
    knobs: dict[str, Any] = {"rescale": rescale, "normalize": normalize, "scale": scale}
    part_ = Dare(weight=per_model(weight), density=per_model(density), **knobs)
    return on_tensors(part_, base, models, rng)


@part
class Dare(DroppedPart):
    """Drop entries of each task vector at random, divide the rest by the density, and add them.

    The method of a merge recipe under the name ``dare``; the function of that name does the same to tensors at hand.

    Example:
        >>> from isoflop.merge.method import on_tensors
        >>> base = torch.zeros(4)
        >>> first, second = torch.tensor([1.0, 2.0, 0.5, -1.0]), torch.tensor([-3.0, 2.0, 0.25, 1.0])
        >>> merged = on_tensors(Dare(density=0.5), base, [first, second])
        >>> torch.equal(merged, dare(base, [first, second], rng=Rng(0), density=0.5))
        True
    """

    card = Card(
        summary="drop entries of each task vector at random, divide the rest by the density, and add them",
        paper="Yu et al. 2024, arXiv 2311.03099",
        equation="b + scale sum w_i r_i m_i d_i, m_i ~ Bernoulli(density), r_i = 1 / density",
        defaults="density 0.1 for large models",
        differs="masks are drawn by tensor name, model and place",
        cost="about 5 operations and a random number an element and model",
    )

    def survey(self, base: Flat | None, models: Sequence[Flat], rng: Rng, overview: Any) -> tuple[Rng, list[float]]:
        assert base is not None
        shares = numbers(self.density, len(models), "density")
        return rng, [1 / share if self.rescale and share > 0 else 1.0 for share in shares]

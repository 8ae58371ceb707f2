"""Looking at models before a merge: how far each is from the base, where they agree, where they will interfere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..core.errors import RecipeError, UsageError
from ..store.inspections import Inspection, TensorFacts
from ..store.safetensors_dir import FLOATS
from ..store.tensors import HEADS, Checkpoint, Flat, layer_of, pieces
from .configuration import refuse_other_architectures
from .recipe import MergeRecipe
from .sources import open_source

_STEPS = 12
"""Steps of the power iteration: the stable rank is then right to a few per cent, which is all that it is read for."""


@dataclass
class _Sums:
    """What adds up over pieces, tensors and layers."""

    base: float
    products: Tensor
    """Inner products (k, k) of the task vectors."""
    shared: int = 0
    conflicts: int = 0
    before: float = 0.0
    after: float = 0.0
    numel: int = 0
    names: list[str] = field(default_factory=list)

    @classmethod
    def zero(cls, count: int) -> _Sums:
        return cls(0.0, torch.zeros(count, count, dtype=torch.float64))

    def see(self, base: Tensor, vectors: Tensor) -> None:
        """Add a piece: base (n,), task vectors (k, n)."""
        self.base += float(base.double().square().sum())
        self.products += vectors.double() @ vectors.double().T
        up, down = (vectors > 0).sum(0), (vectors < 0).sum(0)
        self.shared += int((up + down > 1).sum())
        self.conflicts += int(((up > 0) & (down > 0)).sum())
        self.before += float(vectors.abs().sum(dtype=torch.float64))
        self.after += float(vectors.sum(0).abs().sum(dtype=torch.float64))
        self.numel += base.numel()

    def add(self, other: _Sums) -> None:
        """Add another tensor's sums."""
        self.base += other.base
        self.products += other.products
        self.shared += other.shared
        self.conflicts += other.conflicts
        self.before += other.before
        self.after += other.after
        self.numel += other.numel

    def facts(self, name: str, layer: int | None, ranks: Sequence[float | None]) -> TensorFacts:
        """What is said of them."""
        lengths = self.products.diagonal().clamp(min=0).sqrt()
        there = [i for i in range(len(lengths)) if float(lengths[i]) > 0]
        cosines = [
            float(self.products[i, j] / (lengths[i] * lengths[j])) for n, i in enumerate(there) for j in there[n + 1 :]
        ]
        size = math.sqrt(self.base) or 1.0
        return TensorFacts(
            name=name,
            layer=layer,
            numel=self.numel,
            distances=tuple(float(length) / size for length in lengths),
            ranks=tuple(ranks),
            cosine=sum(cosines) / len(cosines) if cosines else None,
            conflict=self.conflicts / self.shared if self.shared else 0.0,
            cancelled=max(0.0, 1 - self.after / self.before) if self.before else 0.0,
            magnitude=self.before,
        )


def inspect(base: str, models: Sequence[str]) -> Inspection:
    """Read every tensor of base and models once, piece by piece.

    Do this before a merge: where task vectors conflict much, a plain average loses most.

    Args:
        base: directory, run or checkpoint of a run.
        models: the same; at least one.

    Raises:
        RecipeError: the sources do not have the same tensors; names tensor and file.

    Example, with ``write(path, **tensors)`` a directory of weights:
        >>> write("base", w=[0.0, 0.0]); write("a", w=[1.0, 2.0]); write("b", w=[-1.0, 2.0])
        >>> inspect("base", ["a", "b"]).tensors[0].conflict
        0.5
    """
    if not models:
        raise UsageError("there is no model to compare with the base", where="merge inspect")
    one, *others = (open_source(path) for path in (base, *models))
    refuse_other_architectures([one, *others])
    tensors: list[TensorFacts] = []
    layers: dict[int | None, _Sums] = {}
    for name, info in one.tensors.items():
        if info.dtype not in FLOATS:
            continue
        flats = _flats(others, name, info.shape, one)
        origin = one.flat(name, torch.float32)
        sums = _Sums.zero(len(flats))
        for start, stop in pieces(info.numel):
            piece = origin.piece(start, stop)
            sums.see(piece, torch.stack([flat.piece(start, stop) - piece for flat in flats]))
        layer = layer_of(name)
        ranks = [_stable_rank(origin, flat) if len(info.shape) == 2 else None for flat in flats]
        tensors.append(sums.facts(name, layer, ranks))
        layers.setdefault(layer, _Sums.zero(len(flats))).add(sums)
    ordered = sorted(layer for layer in layers if layer is not None) + [None] * (None in layers)
    rows = [layers[at].facts("outside the layers" if at is None else f"layer {at}", at, ()) for at in ordered]
    return Inspection(base=base, models=tuple(models), tensors=tuple(tensors), layers=tuple(rows))


def _flats(others: Sequence[Checkpoint], name: str, shape: tuple[int, ...], one: Checkpoint) -> list[Flat]:
    flats: list[Flat] = []
    for checkpoint in others:
        if name not in checkpoint.tensors and not (name in HEADS and checkpoint.tied):
            raise RecipeError([f"lacks tensor {name!r}, which {one.path} has"], source=str(checkpoint.path))
        info = checkpoint.find(name)
        if info.shape != shape:
            raise RecipeError(
                [f"tensor {name!r} has shape {list(info.shape)}, but {list(shape)} in {one.path}"],
                source=str(info.file),
            )
        flats.append(checkpoint.flat(name, torch.float32))
    return flats


def _stable_rank(base: Flat, model: Flat) -> float | None:
    """|d|_F^2 / |d|_2^2 of the difference of two matrices, by power iteration; None if they are equal."""
    difference = model.whole() - base.whole()
    energy = float(difference.double().square().sum())
    if energy == 0:
        return None
    draw = torch.Generator().manual_seed(0)
    vector = torch.randn(difference.shape[1], generator=draw)
    for _ in range(_STEPS):
        vector = difference.T @ (difference @ vector)
        vector = vector / vector.norm()
    return energy / float((difference @ vector).double().square().sum())


def pair_of(recipe: MergeRecipe, source: str) -> tuple[str, list[str]]:
    """Base and models of a merge that lies in ``source``. UsageError if it has no base, or slices."""
    if recipe.base is None or not recipe.models:
        raise UsageError("names no base and models to compare", where=source, fix="name directories instead")
    return recipe.base, [source.path for source in recipe.models if source.path != recipe.base]

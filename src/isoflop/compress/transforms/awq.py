"""AWQ (Lin et al. 2023, arXiv 2306.00978): scale up the columns with large inputs before rounding, and those down."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ...core.cost import Cost
from ...core.registry import Card, part
from ...ledger import formulas
from ..calibrated import RoundingPart, WatchedLayer
from ..grids import Grid
from ..watching import overhearing, passing

GRID = 20
"""Powers that are tried, from 0 on."""
CLOSE = 1e-4
"""Largest change of a layer's output, beside its largest number, that is taken for fp32's rounding."""


def loss(weight: Tensor, scale: Tensor, gram: Tensor, grid: Grid) -> float:
    """Squared error of a matrix's products if its columns are multiplied by ``scale`` before rounding.

    Args:
        weight: (rows, columns).
        scale: (columns,).
        gram: (columns, columns), the sum of x x' over its inputs.
        grid: what is rounded to.

    Example:
        >>> from isoflop.compress.grids import integers
        >>> loss(torch.tensor([[7.0, 3.0]]), torch.ones(2), torch.eye(2), Grid(integers(4)))
        0.0
    """
    off = (weight - grid.rounded(weight * scale) / scale).double()
    return float(((off @ gram.double()) * off).sum())


def best_scale(weights: Sequence[Tensor], size: Tensor, gram: Tensor, grid: Grid) -> Tensor:
    """The scale (columns,) of the columns of matrices that share inputs: a power of those inputs' sizes.

    Args:
        weights: each (rows, columns).
        size: (columns,), mean absolute inputs.
        gram: (columns, columns), the sum of x x' over the inputs.
        grid: what is rounded to.

    Example:
        >>> from isoflop.compress.grids import integers
        >>> weights, size = [torch.tensor([[7.0, 3.4]])], torch.tensor([0.0, 4.0])
        >>> best_scale(weights, size, torch.diag(size**2), Grid(integers(4)))[1].item() > 1
        True
    """
    best, least = torch.ones_like(size), float("inf")
    for k in range(GRID):
        scale = size.clamp(min=1e-4) ** (k / GRID)
        scale = scale / (scale.max() * scale.min()).sqrt()
        found = sum(loss(weight, scale, gram, grid) for weight in weights)
        if found < least:
            best, least = scale, found
    return best


class Feeder(NamedTuple):
    """What gives matrices their inputs: a module whose output number i is input number ``i``, or several inputs.

    Example:
        >>> Feeder(torch.nn.LayerNorm(2), repeat=1, each=1).folded(torch.tensor([1.0, 2.0])).tolist()
        [1.0, 2.0]
    """

    module: Any
    """Has ``weight`` (outputs, ...), and perhaps ``bias`` (outputs,)."""
    repeat: int
    """How many inputs an output becomes: query heads of a key-value head."""
    each: int
    """Numbers that are repeated together: those of a head."""

    def shared(self, scale: Tensor) -> Tensor:
        """The scale of inputs made the same for all that one output becomes: their geometric mean."""
        if self.repeat == 1:
            return scale
        grouped = scale.view(-1, self.repeat, self.each).log().mean(1, keepdim=True).exp()
        return grouped.expand(-1, self.repeat, -1).reshape(-1)

    def folded(self, scale: Tensor) -> Tensor:
        """The scale of the outputs."""
        return scale.view(-1, self.repeat, self.each)[:, 0].reshape(-1)

    def divide(self, scale: Tensor) -> None:
        """Divide the outputs by the scale of the inputs."""
        own, origin = self.folded(scale).to(self.module.weight), getattr(self.module, "origin", 0.0)
        weight = self.module.weight
        weight.copy_((weight + origin) / (own if weight.ndim == 1 else own[:, None]) - origin)
        if getattr(self.module, "bias", None) is not None:
            self.module.bias.div_(own)


@part
class AwqPart(RoundingPart):
    """Rounds to integers after scaling up what matters: columns with large inputs, which are scaled down before it.

    As light as it can be: nothing is solved for, and the model computes the same as before until it is rounded.

    Example:
        >>> AwqPart(block=128).format
        'int4'
    """

    card = Card(
        summary="Scales columns with large inputs up before rounding and the inputs down, the norm or matrix before it",
        paper="Lin et al. 2023, arXiv 2306.00978",
        equation="W' = round(W diag(s)), x' = x / s, s_j = mean |x_j|^a, a the best of 0, 1/20 ... 19/20",
        defaults="128 windows of 512 tokens, blocks of 128, asymmetric grids, weights clipped",
        differs="grids are symmetric, weights are not clipped, and the best power is that of each product's own error",
        cost="two forward passes over the windows, and 20 products of each matrix with its inputs' squares",
    )

    def solved(self, weight: Tensor, gram: Tensor) -> Tensor:
        """What its products become where the inputs' scale is kept apart."""
        scale = best_scale([weight], gram.diagonal().sqrt().to(weight), gram, self.grid)
        return self.grid.rounded(weight * scale) / scale

    def change(self, layer: WatchedLayer) -> None:
        groups: dict[str, list[str]] = {}
        for name in layer.matrices:
            layer.grams.of(name)  # says so if it was never used
            groups.setdefault(layer.grams.leaders[name], []).append(name)
        norms = norms_before(layer)
        for leader, names in groups.items():
            readers = [layer.matrices[name] for name in names]
            feeders = [Feeder(norms[leader], 1, 1)] if leader in norms else feeders_of(layer, leader, names)
            weights = [module.weight for module in readers]
            scale = best_scale(weights, layer.grams.size(leader).float(), layer.grams.of(leader), self.grid)
            for feeder in feeders:
                if fold(layer, readers, feeder, feeder.shared(scale)):
                    break
        for module in layer.matrices.values():
            module.weight.copy_(rounded(module, self.grid))

    def cost(self, rows: int, columns: int) -> Cost:
        return GRID * formulas.matmul(rows, columns, columns)


def rounded(module: Any, grid: Grid) -> Tensor:
    """The weight of a module, each block of it at its nearest point of a grid."""
    return grid.rounded(module.weight)


def norms_before(layer: WatchedLayer) -> dict[str, Any]:
    """The norm whose very output a matrix reads, by the matrix's name."""
    made: list[tuple[nn.Module, Tensor]] = []
    found: dict[str, Any] = {}
    norms = {name: module for name, (module, axes) in layer.named.items() if len(axes) == 1}

    def hear(name: str, x: Tensor) -> None:
        for norm, given in made:
            if given is x:
                found[name] = norm

    with (
        overhearing(layer.matrices, hear),
        passing(norms, lambda name, x, out: made.append((norms[name], out))),
    ):
        next(layer.stream.through(layer.module))
    return found


def feeders_of(layer: WatchedLayer, name: str, readers: Sequence[str]) -> list[Feeder]:
    """Matrices whose outputs may be the inputs of one, but for what lies between them."""
    columns = layer.named[name][1][1] if name in layer.named else None
    found = []
    for other, (module, axes) in layer.named.items():
        if columns is None or other in readers or len(axes) != 2:
            continue
        if axes[0].name in (columns.name, columns.name.removesuffix(".heads") + ".kv_heads"):
            repeat = layer.named[name][0].weight.shape[1] // len(module.weight)
            found.append(Feeder(module, repeat, columns.each))
    return found


def fold(layer: WatchedLayer, readers: Sequence[Any], feeder: Feeder, scale: Tensor) -> bool:
    """Scale the columns of matrices up and what feeds them down; taken back, and False, if the layer's output changes.

    Args:
        layer: that they are of.
        readers: modules with ``weight`` (rows, columns).
        feeder: of them all.
        scale: (columns,).
    """
    touched = [*readers, feeder.module]
    before = [{name: own.clone() for name, own in module.named_parameters()} for module in touched]
    wanted = next(layer.stream.through(layer.module))
    for module in readers:
        module.weight.mul_(scale)
    feeder.divide(scale)
    got = next(layer.stream.through(layer.module))
    if bool((got - wanted).abs().max() <= CLOSE * wanted.abs().max()):
        return True
    for module, old in zip(touched, before, strict=True):
        for name, own in module.named_parameters():
            own.copy_(old[name])
    return False

"""Watching a model on text: what its matrices are multiplied with, and its layers one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.contracts import PLACE, Pattern, PlainModel
from ..core.cost import Cost
from ..core.errors import UsageError
from ..core.roles import width_of
from ..ledger import formulas

ROWS = 8
"""Windows that pass through a model at a time."""
Hear = Callable[[str, Tensor], None]
"""Called with a module's name and the vectors (batch, length, columns) that come to it, or leave it."""


class Overheard(nn.Module):
    """Stands in for a matrix's product, changes nothing, and tells what is multiplied.

    Args:
        hear: is told each batch of inputs.

    Example:
        >>> heard = []
        >>> product = Overheard(heard.append).product(torch.eye(2), torch.float32)
        >>> product(torch.ones(1, 3, 2)).shape, len(heard)
        (torch.Size([1, 3, 2]), 1)
    """

    role = "hidden"

    def __init__(self, hear: Callable[[Tensor], None]) -> None:
        super().__init__()
        self.hear = hear

    def product(self, weight: Tensor, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
        def heard(x: Tensor) -> Tensor:
            self.hear(x)
            return F.linear(x, weight.to(dtype))

        return heard

    def finalize(self, weight: Tensor) -> Tensor:
        """The weight itself."""
        return weight


@contextmanager
def overhearing(matrices: Mapping[str, nn.Module], hear: Hear) -> Iterator[None]:
    """While entered, ``hear`` is told what each of the matrices is multiplied with, whenever it is."""
    for name, module in matrices.items():
        setattr(module, PLACE, Overheard(partial(hear, name)))
    try:
        yield
    finally:
        for module in matrices.values():
            setattr(module, PLACE, None)


@contextmanager
def passing(modules: Mapping[str, nn.Module], hear: Callable[[str, Tensor, Tensor], None]) -> Iterator[None]:
    """While entered, ``hear`` is told what comes to each of the modules and what it gives, whenever it runs."""

    def hook(name: str) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
        return lambda module, given, made: hear(name, given[0], made)

    handles = [module.register_forward_hook(hook(name)) for name, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def pass_cost(model: PlainModel, tokens: Tensor, pattern: Pattern | None) -> Cost:
    """What it costs that ``tokens`` (windows, length) pass a model up to its head."""
    windows, length = tokens.shape
    width = width_of(model.shapes())
    head = formulas.linear(windows * length, width, model.vocab_size)
    return model.part.work(windows, length, model.vocab_size, pattern).forward - head.forward


class _Reached(Exception):
    """The first layer was reached, and nothing behind it is wanted."""


class LayerStream:
    """Text on its way through a model, one layer at a time: only the vectors between two layers are held.

    Args:
        model: has ``hidden(tokens, seen)``.
        layers: of it, in order.
        tokens: int64 (windows, length).
        pattern: who sees whom; None is causal.

    Example:
        >>> class Layer(nn.Module):
        ...     def forward(self, x, seen):
        ...         return 2 * x
        >>> class Doubling(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.layers = nn.ModuleList([Layer(), Layer()])
        ...     def hidden(self, tokens, seen):
        ...         return self.layers[1](self.layers[0](tokens[..., None].float(), seen), seen)
        >>> model = Doubling()
        >>> stream = LayerStream(model, model.layers, torch.ones(3, 5, dtype=torch.int64), None)
        >>> stream.advance(model.layers[0])
        >>> stream.vectors[0][0, 0].item()
        2.0
    """

    def __init__(self, model: Any, layers: Sequence[nn.Module], tokens: Tensor, pattern: Pattern | None) -> None:
        self.vectors: list[Tensor] = []
        self._rest: tuple[Any, ...] = ()
        handle = layers[0].register_forward_pre_hook(self._caught)
        try:
            for rows in torch.split(tokens, ROWS):
                try:
                    model.hidden(rows, pattern)
                except _Reached:
                    continue
                raise UsageError("does not pass text from layer to layer, so that it cannot be watched", where="model")
        finally:
            handle.remove()

    def _caught(self, module: nn.Module, given: tuple[Any, ...]) -> None:
        self.vectors.append(given[0])
        self._rest = given[1:]
        raise _Reached

    def through(self, layer: nn.Module) -> Iterator[Tensor]:
        """What a layer makes of the vectors, a few windows at a time; they stay where they are."""
        return (layer(x, *self._rest) for x in self.vectors)

    def advance(self, layer: nn.Module) -> None:
        """Let the vectors pass a layer."""
        self.vectors = list(self.through(layer))

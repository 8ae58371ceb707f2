"""Which shapes this machine multiplies quickly: the products of a training step, timed for each of several models.

A product is X W' with its two gradients, G W and G' X; they take nearly all FLOPs of a step. How many a machine does in
a second depends on their sizes: narrow matrices are slower, and experts see few vectors each. Models take turns, forth
and back, so that what else the machine does falls on all of them. Of a CPU with one thread processor seconds count.
"""

from __future__ import annotations

import math
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from ..core.contracts import Beside, DrivingMixerPart, LayerPart, Products, Step
from ..core.roles import Shape, numel
from ..ledger.peak import DTYPES, wait
from .architectures.transformer import TransformerPart

Product = tuple[int, int, int]
"""Vectors, their numbers, and the numbers of what a weight makes of each."""
LARGEST = 4e9
"""FLOPs of the largest product; of a larger one fewer vectors are timed, the same for all models."""
LEAST = 2e8
"""FLOPs that are timed in one go at least; smaller products are repeated."""
WITHIN = 0.05
"""How much slower than the quickest shape one may be that is efficient all the same."""


@dataclass(frozen=True)
class TimedShape:
    """A model's shape and how fast its products are.

    Args:
        part: the model.
        parameters: embedding and head counted.
        flops: of a token's products, forward and backward.
        rates: FLOP/s of all its products, one a repeat.

    Example:
        >>> TimedShape(TransformerPart(), 100, flops=600, rates=(5e10, 6e10, 9e10)).tokens_per_second
        100000000.0
    """

    part: TransformerPart
    parameters: int
    flops: float
    rates: tuple[float, ...]

    @property
    def rate(self) -> float:
        """FLOP/s, the median."""
        return statistics.median(self.rates)

    @property
    def spread(self) -> float:
        """The fastest repeat over the slowest."""
        return max(self.rates) / min(self.rates)

    @property
    def tokens_per_second(self) -> float:
        """Tokens whose products, forward and backward, are done in a second: what training cannot exceed."""
        return self.rate / self.flops


def products(part: TransformerPart, vocab_size: int, batch: int, length: int) -> Counter[Product]:
    """The products of weights in a pass, each with how often it comes; what reads the same vectors is one product.

    Args:
        part: the model.
        vocab_size: rows of the head.
        batch: sequences.
        length: tokens of each.

    Example:
        >>> part = TransformerPart(d_model=32, layers=2, mixer={"name": "attention", "heads": 4})
        >>> sorted(products(part, 257, 2, 16).items())
        [((32, 32, 32), 2), ((32, 32, 96), 2), ((32, 32, 192), 2), ((32, 32, 257), 1), ((32, 96, 32), 2)]
    """
    width, found = part.d_model, Counter[Product]({(batch * length, part.d_model, vocab_size): 1})
    for mixer, feed_forward in part.blocks():
        for layer in (mixer, feed_forward):
            shapes = {shape.name: shape for shape in layer.shapes(width)}
            found.update(_of_steps(_steps(layer, batch, length, width), shapes, batch * length))
    return found


def _steps(layer: LayerPart, batch: int, length: int, width: int) -> Sequence[Step]:
    if isinstance(layer, DrivingMixerPart):
        return [*layer.keeping(batch, length, width), *layer.closing(batch, length, width)]
    return layer.steps(batch, length, width)


def _of_steps(steps: Sequence[Step], shapes: dict[str, Shape], vectors: int) -> Iterator[Product]:
    for step in steps:
        if isinstance(step, Beside):
            yield from _of_steps(step.steps, shapes, step.vectors)
        elif isinstance(step, Products):
            yield from _side_by_side(step, shapes, vectors)


def _side_by_side(step: Products, shapes: dict[str, Shape], vectors: int) -> Iterator[Product]:
    """One product of weights that are applied to all vectors; of weights that have vectors of their own, one each."""
    sizes = [shapes[name].shape for name in step.names]
    if step.vectors is None:
        yield vectors, sizes[0][1], sum(rows for rows, _ in sizes)
        return
    yield from ((count, columns, rows) for (rows, columns), count in zip(sizes, step.vectors, strict=True) if count)


def time_shapes(
    parts: Sequence[TransformerPart],
    vocab_size: int,
    *,
    batch: int,
    length: int,
    repeats: int = 5,
    device: str = "cpu",
    precision: str = "fp32",
    say: Callable[[str], None] = lambda line: None,
) -> list[TimedShape]:
    """Time the products of a training step of each model, forward and backward, in turns.

    Args:
        parts: the models.
        vocab_size: rows of their heads.
        batch: sequences of a step; fewer are timed where products would take long.
        length: tokens of each.
        repeats: turns, of which the rates are one each.
        device: as torch names it.
        precision: "fp32" or "bf16".
        say: called with a line before each turn.

    Example:
        >>> part = TransformerPart(d_model=32, layers=1, mixer={"name": "attention", "heads": 4})
        >>> (timed,) = time_shapes([part], 257, batch=1, length=16, repeats=2)
        >>> timed.parameters == sum(shape.numel for shape in part.shapes(257)), len(timed.rates)
        (True, 2)
    """
    batch, length = _bounded(parts, vocab_size, batch, length)
    listed = [products(part, vocab_size, batch, length) for part in parts]
    flops = [sum(6 * math.prod(product) * count for product, count in own.items()) for own in listed]
    rates: list[list[float]] = [[] for _ in parts]
    run = partial(_seconds, device=torch.device(device), dtype=DTYPES[precision])
    for product in set().union(*listed):
        run(product)  # sets up kernels and faults pages in
    for turn in range(repeats):
        say(f"turn {turn + 1} of {repeats}")
        order = range(len(parts)) if turn % 2 == 0 else reversed(range(len(parts)))
        for which in order:
            seconds = sum(run(product) * count for product, count in listed[which].items())
            rates[which].append(flops[which] / seconds)
    return [
        TimedShape(part, numel(part.shapes(vocab_size)), total / (batch * length), tuple(found))
        for part, total, found in zip(parts, flops, rates, strict=True)
    ]


def efficient(shapes: Sequence[TimedShape]) -> list[TimedShape]:
    """Those whose products do nearly as many tokens a second as the quickest one's, that one first.

    Args:
        shapes: as they were timed.
    """
    ordered = sorted(shapes, key=lambda shape: shape.tokens_per_second, reverse=True)
    return [shape for shape in ordered if shape.tokens_per_second >= (1 - WITHIN) * ordered[0].tokens_per_second]


def _bounded(parts: Sequence[TransformerPart], vocab_size: int, batch: int, length: int) -> tuple[int, int]:
    """As many sequences, or tokens of one, as leave no product larger than ``LARGEST``."""
    largest = max(2 * math.prod(product) for part in parts for product in products(part, vocab_size, batch, length))
    if largest <= LARGEST:
        return batch, length
    tokens = max(16, int(batch * length * LARGEST / largest))
    return (tokens // length, length) if tokens >= length else (1, tokens)


def _seconds(product: Product, device: torch.device, dtype: torch.dtype) -> float:
    """Seconds of a product and its two gradients."""
    vectors, inputs, outputs = product
    x, weight, gradient = (
        torch.full(size, 0.5, device=device, dtype=dtype)
        for size in ((vectors, inputs), (outputs, inputs), (vectors, outputs))
    )
    calls = max(1, math.ceil(LEAST / (6 * math.prod(product))))
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.thread_time if alone else time.perf_counter  # whoever waits for the processor is not slow
    wait(device)
    start = clock()
    for _ in range(calls):
        x @ weight.t()
        gradient @ weight
        gradient.t() @ x
    wait(device)
    return (clock() - start) / calls

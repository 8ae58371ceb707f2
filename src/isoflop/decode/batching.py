"""What decoders share: samples of prompts in batches, and texts of different lengths side by side in one cache."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..core.contracts import Completion, Listener
from ..core.cost import Cost
from ..core.errors import NumericsError
from ..core.rng import Rng

T = TypeVar("T")
Row = TypeVar("Row")


class Batched(ABC):
    """A decoder that works on all samples of some prompts together; see ``core.contracts.Decoder``.

    Args:
        samples: of each prompt.
        batch: samples that are decoded together at most.

    Example:
        >>> from isoflop.decode.decoders.sample import Sample
        >>> Sample(samples=4, batch=32).group
        8
    """

    def __init__(self, samples: int, batch: int) -> None:
        self.samples, self.batch = samples, batch

    @property
    def group(self) -> int:
        """Prompts that are decoded together."""
        return max(1, self.batch // self.samples)

    def generate(self, model: Any, prompts: Sequence[Sequence[int]], budget: int, rng: Rng) -> list[list[int]]:
        """The new ids of ``complete``: one list a sample, those of a prompt side by side."""
        return [found.ids for found in self.complete(model, prompts, budget, rng)]

    @abstractmethod
    def complete(
        self,
        model: Any,
        prompts: Iterable[Sequence[int]],
        budget: int,
        rng: Rng,
        *,
        first: int = 0,
        listen: Listener | None = None,
    ) -> Iterator[Completion]:
        """Samples in the order of their prompts, whose numbers begin with ``first``."""

    def batches(
        self, prompts: Iterable[T], first: int, rng: Rng, row: Callable[[int, int, T, np.random.Generator], Row]
    ) -> Iterator[list[Row]]:
        """The samples that are decoded together; a group's prompts are asked for before any of it is decoded.

        Args:
            prompts: of any kind.
            first: number of the first one.
            rng: of the draws: sample s of prompt i has those of ``rng.at(s, i)``.
            row: makes a sample of a prompt's number, its own, the prompt and its random numbers.
        """
        numbered = enumerate(prompts, first)
        while group := list(itertools.islice(numbered, self.group)):
            rows = [row(i, s, prompt, rng.at(step=s, sample=i)) for i, prompt in group for s in range(self.samples)]
            for start in range(0, len(rows), self.batch):
                yield rows[start : start + self.batch]


def finite(logits: Tensor) -> Tensor:
    """Logits (..., ids) as they are; NumericsError unless the largest of each place is a number.

    Example:
        >>> finite(torch.tensor([[-torch.inf, 1.0]])).tolist()
        [[-inf, 1.0]]
    """
    if not torch.isfinite(logits.amax(-1)).all():
        raise not_finite()
    return logits


def not_finite() -> NumericsError:
    """What to raise where a model says what is no number."""
    fix = "the run's weights are not finite or have grown too large: train it again at a lower rate"
    return NumericsError("the model's logits are not finite", where="generate", fix=fix)


def costs_side_by_side(price: Callable[[int], Cost], sizes: Sequence[int], longest: int) -> list[Cost]:
    """What one pass over texts costs each of them: its own FLOPs, and what is executed with the batch's padding.

    Args:
        price: cost of a text of so many tokens by itself.
        sizes: tokens of each text.
        longest: tokens of each with its padding.

    Example:
        >>> costs_side_by_side(lambda n: Cost(flops=n, executed=2 * n), [3], 5)
        [Cost(flops=3, executed=10, elementwise=0, moved=0)]
    """
    executed = price(longest).executed
    return [replace(price(size), executed=executed) for size in sizes]


def side_by_side(model: Any, texts: Sequence[Sequence[int]], room: int, device: Any) -> tuple[Any, Tensor]:
    """A cache that holds texts of any lengths, padded on their left, and the logits (texts, vocab) behind each.

    Args:
        model: Cacheable.
        texts: ids, at least one of each.
        room: tokens that are to follow each, for which the cache has room at first.
        device: where the model is.
    """
    longest = max(map(len, texts))
    pads = [longest - len(text) for text in texts]
    cache = model.make_cache(len(texts), longest + room, pads=pads if any(pads) else None)
    tokens = torch.tensor([[0] * pad + list(text) for pad, text in zip(pads, texts, strict=True)])
    return cache, model.step(tokens.to(device), cache, 1)[:, -1]

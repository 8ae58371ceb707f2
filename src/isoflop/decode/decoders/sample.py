"""Token by token from the model's own distribution: greedy, temperature, top-k and nucleus sampling, with a cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor

from ...core.context import Context
from ...core.contracts import Cacheable, DecoderPart
from ...core.errors import NumericsError, UsageError
from ...core.registry import Card, part
from ...core.rng import Rng

_ROOM = 1024  # new tokens that the cache has room for at first: it grows with what is generated, not with the budget


class Sample:
    """Autoregressive decoding of a Cacheable model.

    ``generate`` is all that most need; ``choose`` alone draws from logits of any origin. Equal random numbers give
    equal samples whatever else is in the batch.

    Args:
        temperature: divides the logits; 0 takes the likeliest token.
        top_k: keep only the k likeliest tokens (and those that tie with the last of them).
        top_p: keep only the fewest tokens whose probabilities sum to at least p (Holtzman et al. 2020).
        stop: token id that ends a sample; it is not part of the sample.
        ids: none from this one on is chosen.

    Example, with ``model`` a Transformer over bytes:
        >>> samples = Sample(temperature=0.8, top_k=20).generate(model, [[104], [105, 106]], 5, Rng(0))
        >>> [len(sample) for sample in samples]
        [5, 5]
    """

    def __init__(
        self,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float = 1.0,
        stop: int | None = None,
        ids: int | None = None,
    ) -> None:
        self.temperature, self.top_k, self.top_p, self.stop, self.ids = temperature, top_k, top_p, stop, ids

    @torch.no_grad()
    def generate(self, model: Any, prompts: Sequence[Sequence[int]], budget: int, rng: Rng) -> list[list[int]]:
        """At most ``budget`` new tokens for each prompt, prompts not repeated.

        Prompts may differ in length: all rows walk in step from the shortest prompt's end, and a row inside its own
        prompt takes its next token from there. The j-th new token of prompt i uses number (i, j) of ``rng``, whatever
        else is in the batch.
        """
        if any(len(prompt) == 0 for prompt in prompts):
            raise UsageError("a prompt is empty", where="generate", fix="begin it with the end-of-text id")
        if not prompts or budget < 1:
            return [[] for _ in prompts]
        rows, lengths, here = [list(prompt) for prompt in prompts], [*map(len, prompts)], min(map(len, prompts))
        generators = [rng.at(sample=i) for i in range(len(prompts))]
        device = model.head.device
        cache = model.make_cache(len(prompts), min(max(lengths) + budget - 1, max(lengths) + _ROOM))
        tokens, ended = [row[:here] for row in rows], [False] * len(rows)
        while not all(ended):
            logits = model.step(torch.tensor(tokens).to(device), cache)[:, -1, : self.ids].float().cpu()
            free = [here >= length and not end for length, end in zip(lengths, ended, strict=True)]
            numbers = [each.random() if is_free else 0.0 for each, is_free in zip(generators, free, strict=True)]
            drawn = self.choose(logits, torch.tensor(numbers, dtype=torch.float64)).tolist()
            for i in np.flatnonzero(free):
                rows[i].append(drawn[i])
                ended[i] = drawn[i] == self.stop or len(rows[i]) - lengths[i] == budget
            tokens = [row[here : here + 1] or [0] for row in rows]  # a row that has ended walks on for company
            here += 1
        return [self._cut(row[length:]) for row, length in zip(rows, lengths, strict=True)]

    def choose(self, logits: Tensor, uniform: Tensor) -> Tensor:
        """A token id for each row of ``logits`` (batch, vocab), by its number in [0, 1) of ``uniform`` (batch,).

        Raises:
            NumericsError: the likeliest token's logit is NaN or infinite.
        """
        largest, likeliest = logits.max(-1)
        if not largest.isfinite().all():
            fix = "the run's weights are not finite or have grown too large: train it again at a lower rate"
            raise NumericsError("the model's logits are not finite", where="generate", fix=fix)
        if self.temperature == 0:
            return likeliest
        scores = (logits.double() - largest.double()[:, None]) / self.temperature  # of the likeliest 0: none overflows
        if self.top_k is not None and self.top_k < scores.shape[-1]:
            least = scores.topk(self.top_k).values[:, -1:]
            scores = scores.masked_fill(scores < least, -torch.inf)
        p = torch.softmax(scores, -1)
        if self.top_p < 1:
            ordered, order = p.sort(dim=-1, descending=True, stable=True)
            surplus = ordered.cumsum(-1) - ordered >= self.top_p  # the likelier ones suffice without this one
            p = p.masked_fill(surplus.gather(-1, order.argsort(-1)), 0)
        cumulative = p.cumsum(-1)
        target = uniform.to(p.dtype)[:, None] * cumulative[:, -1:]
        return torch.searchsorted(cumulative, target, right=True).squeeze(1).clamp_(max=logits.shape[-1] - 1)

    def _cut(self, tokens: list[int]) -> list[int]:
        """Without the stop."""
        return tokens[:-1] if tokens and tokens[-1] == self.stop else tokens


@part
class SamplePart(DecoderPart):
    """Sample token by token; temperature 0 is greedy.

    The decoder of ``isoflop generate``. It needs a model that keeps a cache; temperature 0 for what is likeliest, about
    0.8 with top_p 0.95 for text to be read.

    Example, with ``model`` a Transformer over bytes:
        >>> greedy = SamplePart(temperature=0).build()
        >>> greedy.generate(model, [[104]], 3, Rng(0)) == greedy.generate(model, [[104]], 3, Rng(1))
        True
    """

    temperature: NonNegativeFloat = 1.0
    """Divides the logits; 0 takes the likeliest token."""
    top_k: PositiveInt | None = None
    """Keep only the k likeliest tokens."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Keep only the likeliest tokens that together reach this probability."""
    needs: ClassVar[dict[str, frozenset[type]]] = {"model": frozenset({Cacheable})}
    card = Card(
        summary="One token at a time from the model's distribution",
        paper="top_k: Fan et al. 2018, arXiv 1805.04833; top_p: Holtzman et al. 2020, arXiv 1904.09751",
        equation="x_t ~ softmax(logits(x_<t) / temperature), cut to top_k and top_p",
        cost="one step of the model a token, with a cache",
    )

    def build(self, ctx: Context | None = None) -> Sample:
        return Sample(self.temperature, self.top_k, self.top_p, self.stop, self.ids)

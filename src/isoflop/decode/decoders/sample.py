"""Token by token from the model's own distribution: greedy, temperature, top-k and nucleus sampling, with a cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor

from ...core.context import Context
from ...core.contracts import DecoderPart
from ...core.errors import UsageError
from ...core.registry import Card, part
from ...core.rng import Rng


class Sample:
    """Autoregressive decoding of a Cacheable model.

    Args:
        temperature: divides the logits; 0 takes the likeliest token.
        top_k: keep only the k likeliest tokens (and those that tie with the last of them).
        top_p: keep only the fewest tokens whose probabilities sum to at least p (Holtzman et al. 2020).
        stop: token id that ends a sample; it is not part of the sample.
    """

    def __init__(
        self, temperature: float = 1.0, top_k: int | None = None, top_p: float = 1.0, stop: int | None = None
    ) -> None:
        self.temperature, self.top_k, self.top_p, self.stop = temperature, top_k, top_p, stop

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
        lengths = np.array([len(prompt) for prompt in prompts])
        total, here = int(lengths.max()) + budget, int(lengths.min())
        rows = np.zeros((len(prompts), total), dtype=np.int64)
        for row, prompt in zip(rows, prompts, strict=True):
            row[: len(prompt)] = prompt
        uniform = np.stack([rng.at(sample=i).random(budget) for i in range(len(prompts))])
        device = model.head.device
        cache = model.make_cache(len(prompts), total - 1)
        seen, ended = 0, np.zeros(len(prompts), dtype=bool)
        while here < total and not ended.all():
            logits = model.step(torch.from_numpy(rows[:, seen:here]).to(device), cache)[:, -1].float().cpu()
            new = np.clip(here - lengths, 0, budget - 1)
            drawn = self.choose(logits, torch.from_numpy(uniform[np.arange(len(prompts)), new]))
            free = here >= lengths
            rows[free, here] = drawn.numpy()[free]
            ended |= free & ((rows[:, here] == self.stop) | (here + 1 - lengths >= budget))
            seen, here = here, here + 1
        return [self._cut(row[n : n + budget].tolist(), here - n) for row, n in zip(rows, lengths, strict=True)]

    def choose(self, logits: Tensor, uniform: Tensor) -> Tensor:
        """A token id for each row of ``logits`` (batch, vocab), by its number in [0, 1) of ``uniform`` (batch,)."""
        if self.temperature == 0:
            return logits.argmax(-1)
        scores = logits.double() / self.temperature
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

    def _cut(self, tokens: list[int], count: int) -> list[int]:
        """The first ``count`` tokens, up to the stop."""
        tokens = tokens[: max(count, 0)]
        return tokens[: tokens.index(self.stop)] if self.stop in tokens else tokens


@part
class SamplePart(DecoderPart):
    """Sample token by token; temperature 0 is greedy."""

    temperature: NonNegativeFloat = 1.0
    """Divides the logits; 0 takes the likeliest token."""
    top_k: PositiveInt | None = None
    """Keep only the k likeliest tokens."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Keep only the likeliest tokens that together reach this probability."""
    card = Card(
        summary="One token at a time from the model's distribution",
        paper="top_k: Fan et al. 2018, arXiv 1805.04833; top_p: Holtzman et al. 2020, arXiv 1904.09751",
        equation="x_t ~ softmax(logits(x_<t) / temperature), cut to top_k and top_p",
        cost="one step of the model a token, with a cache",
    )

    def build(self, ctx: Context | None = None) -> Sample:
        return Sample(self.temperature, self.top_k, self.top_p, self.stop)

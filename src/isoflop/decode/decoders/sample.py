"""Token by token from the model's own distribution: greedy, or drawn from what several cuts leave; with a cache."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from ...core.context import Context
from ...core.contracts import Cacheable, Completion, DecoderPart, Ended, Listener, Preparable
from ...core.errors import UsageError
from ...core.registry import Card, part
from ...core.rng import Rng
from .. import filters
from ..batching import Batched, not_finite, side_by_side

_ROOM = 1024  # new tokens that the cache has room for at first: it grows with what is generated, not with the budget
_NUMBERS = 1 << 17  # logits that are worked on at once: more of them leave the processor's caches


@dataclass
class _Row:
    """One sample as it grows."""

    prompt: int
    sample: int
    given: Sequence[int]
    generator: np.random.Generator
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    ended: Ended | None = None


class Sample(Batched):
    """Autoregressive decoding of a Cacheable model.

    ``generate`` is all that most need, ``complete`` says more of each sample and takes prompts one by one; ``choose``
    alone draws from logits of any origin. Equal random numbers give equal samples whatever else is in the batch.

    Args:
        temperature: divides the logits; 0 takes the likeliest token.
        top_k: keep only the k likeliest tokens (and those that tie with the last of them).
        top_p: keep only the fewest tokens whose probabilities sum to at least p (Holtzman et al. 2020).
        stop: token id that ends a sample; it is not part of the sample.
        ids: none from this one on is chosen.
        min_p: keep only tokens at least so many times as likely as the likeliest (Nguyen et al. 2024).
        typical: keep only the fewest tokens of typical surprise that sum to this probability (Meister et al. 2023).
        repetition_penalty: divides positive logits, and multiplies negative ones, of ids in the prompt or the sample.
        samples: of each prompt.
        batch: samples that are decoded together at most.
        logprobs: note each token's log-probability under the model itself, before all that is above.
        weights: "int8" computes with weights of 8 bits; None with the model's own.

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
        *,
        min_p: float = 0.0,
        typical: float = 1.0,
        repetition_penalty: float = 1.0,
        samples: int = 1,
        batch: int = 32,
        logprobs: bool = False,
        weights: Literal["int8"] | None = None,
    ) -> None:
        super().__init__(samples, batch)
        self.temperature, self.top_k, self.top_p, self.stop, self.ids = temperature, top_k, top_p, stop, ids
        self.min_p, self.typical, self.repetition_penalty = min_p, typical, repetition_penalty
        self.logprobs, self.weights = logprobs, weights

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
        """At most ``budget`` new tokens for each prompt and sample, in their order.

        Prompts of one batch may differ in length: the shorter ones are padded on their left. The j-th new token of
        sample s of prompt i is drawn with number j of ``rng.at(s, i)``, whatever else is in the batch.

        Args:
            model: a Cacheable model.
            prompts: ids; where their number is not known (an iterator), a batch is taken to be full.
            budget: most new tokens of a sample.
            rng: of the draws.
            first: number of the first prompt.
            listen: is told each new token, and ends its sample by returning True.

        Raises:
            UsageError: a prompt is empty, or the model has no other weights than its own.
        """
        rows = min(self.batch, self.samples * len(prompts)) if isinstance(prompts, Sequence) else self.batch
        model = self._prepared(model, rows)
        given = (begun(prompt, number) for number, prompt in enumerate(prompts, first))
        for together in self.batches(given, first, rng, _Row):
            self._decode(model, together, budget, listen)
            yield from (Completion(r.prompt, r.sample, r.ids, r.logprobs, r.ended or "budget") for r in together)

    def _prepared(self, model: Any, rows: int) -> Any:
        if isinstance(model, Preparable):
            return model.prepared(rows, self.weights)
        if self.weights is not None:
            what = f"the model cannot compute with {self.weights} weights"
            raise UsageError(what, where="decoder.weights", fix="leave the key out")
        return model

    @torch.no_grad()
    def _decode(self, model: Any, rows: list[_Row], budget: int, listen: Listener | None) -> None:
        """Fill the rows, which belong to one batch."""
        if budget < 1 or not rows:
            return
        prompts, device = {row.prompt: row.given for row in rows}, model.head.device
        cache, logits = side_by_side(model, list(prompts.values()), min(budget - 1, _ROOM), device)
        if len(rows) > len(prompts):
            place = {i: place for place, i in enumerate(prompts)}
            taken = [place[row.prompt] for row in rows]
            cache.select(taken)
            logits = logits[taken]
        seen = self._seen(rows, logits)
        while True:
            self._grow(rows, logits, seen, budget, listen)
            going = [i for i, row in enumerate(rows) if row.ended is None]
            if not going:
                return
            # To copy a cache takes time, so the others walk on for company; but no farther than those that go on,
            # since a model may have learned no more positions.
            longest = max(len(rows[i].given) for i in going)
            if 2 * len(going) <= len(rows) or any(len(row.given) > longest for row in rows):
                rows, seen = [rows[i] for i in going], None if seen is None else seen[going]
                cache.select(going)
            newest = torch.tensor([row.ids[-1:] or [0] for row in rows]).to(device)
            logits = model.step(newest, cache, 1)[:, -1]

    def _seen(self, rows: list[_Row], logits: Tensor) -> Tensor | None:
        """Which ids each row holds: bool (rows, vocab); None where nobody asks."""
        if self.repetition_penalty == 1:
            return None
        seen = torch.zeros(logits[:, : self.ids].shape, dtype=torch.bool)
        for row, mine in zip(rows, seen, strict=True):
            mine[[i for i in row.given if i < len(mine)]] = True
        return seen

    def _grow(
        self, rows: list[_Row], logits: Tensor, seen: Tensor | None, budget: int, listen: Listener | None
    ) -> None:
        """Add a token to each row that has not ended."""
        own = logits[:, : self.ids].float().cpu()
        numbers = torch.tensor([row.generator.random() for row in rows], dtype=torch.float64)
        cut = own if seen is None else filters.penalised(own, seen, self.repetition_penalty)
        if cut.numel() <= _NUMBERS:
            drawn = self.choose(cut, numbers)
        else:
            at_once = max(1, _NUMBERS // own.shape[-1])
            pieces = zip(torch.split(cut, at_once), torch.split(numbers, at_once), strict=True)
            drawn = torch.cat([self.choose(some, uniform) for some, uniform in pieces])
        if self.logprobs:
            chosen = (own.gather(-1, drawn[:, None])[:, 0] - own.logsumexp(-1)).tolist()
        for i, (row, token) in enumerate(zip(rows, drawn.tolist(), strict=True)):
            if row.ended is not None:
                continue
            if token == self.stop:
                row.ended = "stop"
                continue
            row.ids.append(token)
            if self.logprobs:
                row.logprobs.append(chosen[i])
            if seen is not None:
                seen[i, token] = True
            if listen is not None and listen(row.prompt, row.sample, token):
                row.ended = "told"
            elif len(row.ids) == budget:
                row.ended = "budget"

    def choose(self, logits: Tensor, uniform: Tensor) -> Tensor:
        """A token id for each row of ``logits`` (batch, vocab), by its number in [0, 1) of ``uniform`` (batch,).

        Raises:
            NumericsError: the likeliest token's logit is NaN or infinite.
        """
        largest, likeliest = _largest(logits)
        if self.temperature == 0:
            return likeliest
        cumulative = self._cut(logits, largest).cumsum(-1)
        target = uniform.to(cumulative.dtype)[:, None] * cumulative[:, -1:]
        return torch.searchsorted(cumulative, target, right=True).squeeze(1).clamp_(max=logits.shape[-1] - 1)

    def law(self, logits: Tensor) -> Tensor:
        """The probabilities (batch, vocab), float64, by which ``choose`` draws; NumericsError as there."""
        largest, likeliest = _largest(logits)
        if self.temperature == 0:
            return torch.nn.functional.one_hot(likeliest, logits.shape[-1]).double()
        return self._cut(logits, largest)

    def _cut(self, logits: Tensor, largest: Tensor) -> Tensor:
        scores = (logits.double() - largest.double()[:, None]) / self.temperature  # of the likeliest 0: none overflows
        if self.top_k is not None:
            scores = filters.top_k(scores, self.top_k)
        if self.top_p < 1:
            scores = filters.top_p(scores, self.top_p)
        if self.min_p > 0:
            scores = filters.min_p(scores, self.min_p)
        if self.typical < 1:
            scores = filters.typical(scores, self.typical)
        return torch.softmax(scores, -1)


def _largest(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Each row's largest logit and its id; NumericsError where it is NaN or infinite."""
    largest, likeliest = logits.max(-1)
    if not all(map(math.isfinite, largest.tolist())):
        raise not_finite()
    return largest, likeliest


def begun(prompt: Sequence[int], number: int) -> Sequence[int]:
    if not len(prompt):
        fix = "begin it with the end-of-text id"
        raise UsageError("a prompt is empty", where=f"generate: prompt {number}", fix=fix)
    return prompt


Share = Annotated[float, Field(gt=0, le=1)]


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
    top_p: Share = 1.0
    """Keep only the likeliest tokens that together reach this probability."""
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Keep only tokens at least so many times as likely as the likeliest one."""
    typical: Share = 1.0
    """Keep only tokens of the most typical surprise that together reach this probability."""
    repetition_penalty: PositiveFloat = 1.0
    """Above 1 makes ids that the prompt or the text holds already less likely."""
    samples: PositiveInt = 1
    """Samples of each prompt."""
    batch: PositiveInt = 32
    """Samples that are decoded together at most."""
    logprobs: bool = False
    """Note each token's log-probability under the model itself."""
    weights: Literal["int8"] | None = None
    """int8 computes with weights of 8 bits, on a CPU; by default with the model's own."""
    needs: ClassVar[dict[str, frozenset[type]]] = {"model": frozenset({Cacheable})}
    card = Card(
        summary="One token at a time from the model's distribution",
        paper="top_k: Fan et al. 2018, arXiv 1805.04833; top_p: Holtzman et al. 2020, arXiv 1904.09751; "
        "min_p: Nguyen et al. 2024, arXiv 2407.01082; typical: Meister et al. 2023, arXiv 2202.00666; "
        "repetition_penalty: Keskar et al. 2019, arXiv 1909.05858",
        equation="x_t ~ softmax(penalised logits(x_<t) / temperature), cut to top_k, top_p, min_p and typical, in turn",
        differs="the penalty multiplies negative logits, as in transformers and vLLM; the paper divides all",
        cost="one step of the model a token, with a cache",
    )

    def build(self, ctx: Context | None = None) -> Sample:
        return Sample(**{name: getattr(self, name) for name in type(self).model_fields})

"""Speculative decoding: a cheap draft of some tokens, judged by the model in one pass, so that its law stays exact."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor

from ...core.context import Context
from ...core.contracts import Cacheable, Completion, DecoderPart, Ended, Listener, Preparable
from ...core.cost import Cost
from ...core.errors import UsageError
from ...core.registry import Card, part
from ...core.rng import Rng
from ...models.narrowing import narrowed
from ...models.slots import Piece
from ..batching import Batched
from ..drafts import Draft, Drafts, ModelDrafts, NgramDrafts, drawn
from ..sequences import PassFlops, Sequences, StepFlops
from .sample import Sample, Share, begun

NGRAMS = "ngrams"
"""The draft that needs no model."""
OTHER = "draft"
"""The name of another model that drafts."""


@dataclass
class _Guessed:
    """One sample as it grows."""

    prompt: int
    sample: int
    given: Sequence[int]
    generator: np.random.Generator
    ids: list[int] = field(default_factory=list)
    ended: Ended | None = None
    calls: int = 0
    drafted: int = 0
    accepted: int = 0

    @property
    def text(self) -> list[int]:
        """Prompt and new tokens."""
        return [*self.given, *self.ids]


class Speculative(Batched):
    """Decoding of a Cacheable model with the help of a draft, by the law of the model alone (Leviathan et al. 2023).

    A drafted token x, drawn by the draft's law q, is accepted with the chance min(1, p(x) / q(x)), where p is the
    model's; the first that is not is replaced by one drawn from what p has more than q, (p - q)+; if all are accepted
    the model's own law gives one more. So each new token has the law p, whatever the draft is worth.

    Args:
        draft: a share in (0, 1], for the model with that share of its hidden units; "ngrams"; or a live model.
        ahead: tokens that are drafted for a pass of the model.
        law: a ``Sample``, whose temperature and cuts shape both laws.
        stop: token id that ends a sample; it is not part of the sample.
        ids: none from this one on is chosen.
        samples: of each prompt.
        batch: samples that are decoded together at most.

    Example, with ``model`` a Transformer over bytes:
        >>> decoder = Speculative(draft=0.25, law=Sample(temperature=0))
        >>> decoder.generate(model, [[104]], 5, Rng(0)) == Sample(temperature=0).generate(model, [[104]], 5, Rng(0))
        True
    """

    def __init__(
        self,
        draft: Any = NGRAMS,
        ahead: int = 4,
        *,
        law: Sample | None = None,
        stop: int | None = None,
        ids: int | None = None,
        samples: int = 1,
        batch: int = 32,
    ) -> None:
        super().__init__(samples, batch)
        self.draft, self.ahead, self.stop, self.ids = draft, ahead, stop, ids
        self._sample = law or Sample()

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
        """At most ``budget`` new tokens for each prompt and sample, in their order; see ``Sample.complete``.

        The draws of sample s of prompt i are those of ``rng.at(s, i)``, whatever else is in the batch. A completion's
        figures are the share of drafted tokens that was accepted (``acceptance``), ``tokens_a_call`` of the model and
        ``flops_a_token`` of model and draft, the prompt's not counted.

        Args:
            model: a Cacheable model.
            prompts: ids; where their number is not known (an iterator), a batch is taken to be full.
            budget: most new tokens of a sample.
            rng: of the draws.
            first: number of the first prompt.
            listen: is told each new token, and ends its sample by returning True.

        Raises:
            UsageError: a prompt is empty, or the draft fits no such model.
        """
        drafting = self._drafting(model)
        own, theirs = self._laid_out(model), None if drafting is None else self._laid_out(drafting)
        flops, their_flops = PassFlops(model), PassFlops(model if drafting is None else drafting)
        given = (begun(prompt, number) for number, prompt in enumerate(prompts, first))
        for rows in self.batches(given, first, rng, _Guessed):
            held = Sequences(own, len(rows))
            drafts: Drafts = NgramDrafts(len(rows))
            if drafting is not None:
                shared = held if isinstance(self.draft, float) else None
                drafts = ModelDrafts(theirs, len(rows), self.law, their_flops, shared)
            batch = _Batch(self, rows, held, drafts, [StepFlops(flops) for _ in rows])
            batch.decode(budget, listen)
            yield from batch.completions()

    def _drafting(self, model: Any) -> Any:
        """The model that drafts; None: none does."""
        if isinstance(self.draft, str):
            return None
        if isinstance(self.draft, float):
            return narrowed(model, self.draft)
        ours, theirs = (min(len(each.head), self.ids or len(each.head)) for each in (model, self.draft))
        if ours != theirs:
            what = f"the draft knows {theirs:,} ids, and the model {ours:,}"
            raise UsageError(what, where="draft", fix="name a run with this model's tokenizer, or use ngrams")
        return self.draft

    def _laid_out(self, model: Any) -> Any:
        """As for two rows at least: a pass judges several tokens, and no result may depend on their number."""
        return model.prepared(max(2, self.batch)) if isinstance(model, Preparable) else model

    def law(self, logits: Tensor) -> Tensor:
        """The probabilities of tokens, float64 (n, vocab), that logits (n, vocab) stand for."""
        return self._sample.law(logits[:, : self.ids].float().cpu())

    @staticmethod
    def judged(draft: Draft, laws: Tensor, numbers: Any) -> list[int]:
        """The tokens that a pass of the model makes of a draft: what it accepts, and one of its own.

        Args:
            draft: n tokens with their laws.
            laws: the model's (n + 1, vocab), for each of them and for what follows.
            numbers: n + 1 or more in [0, 1): whether each is accepted; the last one draws the model's own token.
        """
        for place, (token, theirs) in enumerate(zip(draft.ids, draft.laws, strict=True)):
            ours = laws[place]
            chance = float(ours[token]) / (1.0 if theirs is None else float(theirs[token]))
            if numbers[place] >= chance:
                certain = torch.zeros_like(ours).index_fill_(0, torch.tensor(token), 1.0)
                rest = (ours - (certain if theirs is None else theirs)).clamp_(min=0)
                return [*draft.ids[:place], drawn(rest if float(rest.sum()) > 0 else ours, numbers[-1])]
        return [*draft.ids, drawn(laws[-1], numbers[-1])]


@dataclass
class _Batch:
    """Samples that are decoded together."""

    decoder: Speculative
    rows: list[_Guessed]
    held: Sequences
    drafts: Drafts
    flops: list[StepFlops]

    @torch.no_grad()
    def decode(self, budget: int, listen: Listener | None) -> None:
        """Fill the rows."""
        if budget < 1:
            return
        begins = [Piece(place, row.given[:-1], 1) for place, row in enumerate(self.rows) if len(row.given) > 1]
        if begins:  # a draft that shares the model's memory finds the prompt in it
            self.held.step(begins)
            self.drafts.begin(begins)
        while going := [place for place, row in enumerate(self.rows) if row.ended is None]:
            self._round(going, budget, listen)

    def _round(self, going: list[int], budget: int, listen: Listener | None) -> None:
        """Draft, judge, and keep what was accepted. What a row draws does not depend on the others."""
        ahead, counts, texts = self.decoder.ahead, [0] * len(self.rows), [row.text for row in self.rows]
        numbers = np.zeros((len(self.rows), 2 * ahead + 1))
        for place in going:
            row = self.rows[place]
            numbers[place] = row.generator.random(2 * ahead + 1)
            counts[place] = min(ahead, budget - len(row.ids) - 1)
        drafts, before = self.drafts.propose(texts, counts, numbers[:, :ahead]), self.held.lengths
        pieces = [
            Piece(place, [*texts[place][before[place] :], *drafts[place].ids], len(drafts[place].ids) + 1)
            for place in going
        ]
        laws = self.decoder.law(torch.cat(self.held.step(pieces)))
        found = torch.split(laws, [piece.wanted for piece in pieces])
        for piece, laws in zip(pieces, found, strict=True):
            row, draft = self.rows[piece.row], drafts[piece.row]
            self.flops[piece.row].add(before[piece.row], len(piece.tokens), piece.wanted)
            new = self.decoder.judged(draft, laws, numbers[piece.row, ahead:])
            row.calls += 1
            row.drafted += len(draft.ids)
            row.accepted += len(new) - 1
            self._grow(row, new, budget, listen)
            settled = len(row.given) + len(row.ids) - 1  # the newest is for the next pass to read
            self.held.truncate(piece.row, settled)
            self.drafts.keep(piece.row, settled)

    def _grow(self, row: _Guessed, new: Sequence[int], budget: int, listen: Listener | None) -> None:
        """Add tokens to a row until it ends."""
        for token in new:
            if token == self.decoder.stop:
                row.ended = "stop"
                return
            row.ids.append(token)
            if listen is not None and listen(row.prompt, row.sample, token):
                row.ended = "told"
                return
        if len(row.ids) >= budget:
            row.ended = "budget"

    def completions(self) -> Iterator[Completion]:
        """The rows, told."""
        for place, row in enumerate(self.rows):
            spent = self.flops[place].total + self.drafts.spent(place)
            tokens = max(1, len(row.ids))
            figures = {
                "acceptance": row.accepted / max(1, row.drafted),
                "tokens_a_call": len(row.ids) / max(1, row.calls),
                "flops_a_token": spent / tokens,
            }
            cost = Cost(flops=spent, executed=spent)
            yield Completion(
                row.prompt,
                row.sample,
                row.ids,
                [],
                row.ended or "budget",
                cost,
                row.calls,
                figures if row.calls else {},
            )


@part
class SpeculativePart(DecoderPart):
    """Draft some tokens cheaply, and let the model judge them in one pass: its own law, in fewer calls.

    It pays where a call costs about the same whether it reads one token or several, and where the draft is good. A
    model with the feed-forward ``nested`` has good drafts in itself.

    Example, with ``model`` a Transformer over bytes:
        >>> greedy = SpeculativePart(draft=0.25, temperature=0).build()
        >>> found = next(greedy.complete(model, [[104]], 8, Rng(0)))
        >>> len(found.ids), sorted(found.figures)
        (8, ['acceptance', 'flops_a_token', 'tokens_a_call'])
    """

    draft: Annotated[float, Field(gt=0, le=1)] | str = NGRAMS
    """A share of the model's hidden units, as 0.25; ngrams, which looks the text's ending up in the text; or a run."""
    ahead: PositiveInt = 4
    """Tokens that are drafted for each pass of the model."""
    temperature: NonNegativeFloat = 1.0
    """Divides the logits, those of the draft, too; 0 takes the likeliest token."""
    top_k: PositiveInt | None = None
    """Keep only the k likeliest tokens."""
    top_p: Share = 1.0
    """Keep only the likeliest tokens that together reach this probability."""
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Keep only tokens at least so many times as likely as the likeliest one."""
    samples: PositiveInt = 1
    """Samples of each prompt."""
    batch: PositiveInt = 32
    """Samples that are decoded together at most."""
    needs: ClassVar[dict[str, frozenset[type]]] = {"model": frozenset({Cacheable})}
    card = Card(
        summary="A draft's tokens judged by the model in one pass, its law kept exactly",
        paper="Leviathan et al. 2023, arXiv 2211.17192; Chen et al. 2023, arXiv 2302.01318; a draft that shares the "
        "cache: Devvrit et al. 2023, arXiv 2310.07707; ngrams: Saxena 2023, prompt lookup decoding",
        equation="accept x ~ q with min(1, p(x) / q(x)); else x ~ (p - q)+ / sum (p - q)+",
        differs="a share of the model continues its keys and values, and the model overwrites what it left there",
        cost="the draft's passes, and one of the model over ahead + 1 tokens, for (1 - a^(ahead + 1)) / (1 - a) new "
        "tokens at acceptance a",
    )

    @property
    def others(self) -> Mapping[str, str]:
        return {OTHER: self.draft} if isinstance(self.draft, str) and self.draft != NGRAMS else {}

    def build(self, ctx: Context | None = None) -> Speculative:
        draft: Any = self.draft
        if name := self.others.get(OTHER):
            if ctx is None or OTHER not in ctx.models:
                what = f"the model {name!r}, which is to draft, was not read"
                raise UsageError(
                    what, where="decoder.draft", fix="only isoflop generate reads one; use ngrams or a share"
                )
            draft = ctx.models[OTHER]
        law = Sample(self.temperature, self.top_k, self.top_p, min_p=self.min_p)
        sizes = {"stop": self.stop, "ids": self.ids, "samples": self.samples, "batch": self.batch}
        return Speculative(draft, self.ahead, law=law, **sizes)  # type: ignore[arg-type]

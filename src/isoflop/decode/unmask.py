"""Writing with a model that fills in hidden tokens: the loop that all its decoders share.

A text lies there whole, with hidden tokens in it. Each call of the model gives a distribution for every hidden one; a
decoder chooses which of them are drawn now (``UnmaskPart``), and these are shown from then on. Which ones are chosen
never depends on what is drawn for them in the same call: so with one token a call, at temperature 1, texts have exactly
the law that the model's conditionals define, in whatever order they are written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.contracts import Completion, Ended, Filling, Listener
from ..core.cost import Cost
from ..core.errors import UsageError
from ..core.registry import get
from ..core.rng import Rng
from ..models.sheet import WritingSheet, sheets_of
from .batching import Batched, finite
from .canvas import Canvas
from .reading import Reader

Template = Sequence["int | None"]
"""Ids of a text, None where a token is to be filled in."""
Guide = Callable[[Tensor, Tensor], Tensor]
"""From logits (batch, length, ids) and tokens (batch, length) to the logits that are drawn from."""
Watch = Callable[[int, int, int, int], None]
"""Is told the prompt, the sample, the place in its template and the token of whatever is shown, as it is shown."""


@dataclass
class SampleInHand:
    """One sample as it is filled in.

    Args:
        prompt: number of the prompt.
        sample: number among the prompt's samples.
        template: what it was at the beginning.
        generator: its random numbers.
        cost: of the model's calls for it.
        calls: how many those were.
        ended: why it ends; None: it does not yet.
        told: how many of its hidden tokens, from the left, were told.
        text: what it has become, where it is done.

    Example:
        >>> SampleInHand(0, 0, [5, None, None], np.random.default_rng(0)).holes
        [1, 2]
    """

    prompt: int
    sample: int
    template: Template
    generator: np.random.Generator
    cost: Cost = field(default_factory=Cost)
    calls: int = 0
    ended: Ended | None = None
    told: int = 0
    text: list[int] = field(default_factory=list)

    @cached_property
    def holes(self) -> list[int]:
        """Places that are to be filled in."""
        return [place for place, token in enumerate(self.template) if token is None]


class Unmask(Batched):
    """Fills in hidden tokens, batched, with texts of any lengths side by side.

    ``complete`` goes on from prompts as every decoder does; ``infill`` takes templates, in which any tokens may be
    hidden. What is drawn for a sample does not depend on what else is in the batch.

    Args:
        how: an ``UnmaskPart``: which tokens are shown when, and how they are drawn.
        filling: the model's conventions; None: its last id is the mask, and every position sees every other.

    Attributes:
        guide: changes logits before anything is chosen or drawn; None: nothing does.
        watch: is told every token as it is shown, in whatever order; None: nobody is.

    Example, with ``model`` a Transformer over bytes:
        >>> from isoflop.decode.decoders.margin import MarginPart
        >>> decoder = MarginPart(per_call=2).build()
        >>> [len(found.ids) for found in decoder.infill(model, [[104, None, 105, None, None]], Rng(0))]
        [3]
    """

    def __init__(self, how: Any, filling: Filling | None = None) -> None:
        super().__init__(how.samples, how.batch)
        self.how, self._filling = how, filling
        self.guide: Guide | None = None
        self.watch: Watch | None = None

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
        """``budget`` hidden tokens behind each prompt, filled in; what follows the first stop is left out.

        Args:
            model: a ``Model`` that fills in.
            prompts: ids.
            budget: new tokens of a sample.
            rng: of the draws: sample s of prompt i has those of ``rng.at(s, i)``.
            first: number of the first prompt.
            listen: is told each new token as soon as all before it are known, and ends its sample by returning True.

        Raises:
            UsageError: a prompt holds the mask, or the budget is smaller than one call's tokens.
        """
        if 0 < budget < self.how.least:
            what = f"a budget of {budget} tokens is smaller than one call, which shows {self.how.least}"
            raise UsageError(what, where="generate", fix="lower decoder.per_call, or allow more tokens")
        templates = ([*prompt, *[None] * budget] for prompt in prompts)
        yield from self._run(model, templates, rng, first, listen, infilling=False)

    def infill(
        self,
        model: Any,
        templates: Iterable[Template],
        rng: Rng,
        *,
        first: int = 0,
        listen: Listener | None = None,
    ) -> Iterator[Completion]:
        """What is hidden in each template, from left to right, as the ids of a completion.

        Args:
            model: a ``Model`` that fills in.
            templates: ids, None where one is hidden.
            rng: of the draws.
            first: number of the first template.
            listen: is told each filled in token as soon as all before it are known.

        Raises:
            UsageError: a template hides nothing or holds the mask, or hides the first token of a model that reads on.
        """
        return self._run(model, templates, rng, first, listen, infilling=True)

    # ------------------------------------------------------------ the loop

    def _run(
        self,
        model: Any,
        templates: Iterable[Template],
        rng: Rng,
        first: int,
        listen: Listener | None,
        *,
        infilling: bool,
    ) -> Iterator[Completion]:
        filling, sheets = self.filling_of(model), sheets_of(model)
        given = (checked(template, number, filling, infilling) for number, template in enumerate(templates, first))
        for rows in self.batches(given, first, rng, SampleInHand):
            filled = self._decode(model, sheets, filling, rows, listen, None if infilling else self.how.stop)
            for row, ids in zip(rows, filled, strict=True):
                yield Completion(row.prompt, row.sample, ids, [], row.ended or "budget", row.cost, row.calls)

    def filling_of(self, model: Any) -> Filling:
        """The conventions of a model."""
        if self._filling is not None:
            return self._filling
        mask, full = model.head.shape[0] - 1, get("pattern", "full")
        return Filling(mask=mask, ids=mask, pattern=full())  # type: ignore[arg-type]

    @torch.no_grad()
    def _decode(
        self,
        model: Any,
        sheets: Callable[[int, int], WritingSheet] | None,
        filling: Filling,
        rows: list[SampleInHand],
        listen: Listener | None,
        stop: int | None,
    ) -> list[list[int]]:
        """Fill in the rows, which belong to one batch."""
        # A decoder that hides tokens again does so anywhere, and would enter a block again and again.
        filling = replace(filling, block=None) if self.how.rewrites else filling
        every, canvas = rows, Canvas.of([row.template for row in rows], filling, self.how.block, model.head.device)
        how = {"ahead": self.how.ahead, "keep": self.how.keep}
        readers = [Reader(model, filling, canvas, sheets, **how) for _ in range(1 + (self.how.guidance > 0))]
        while True:
            self._tell(canvas, rows, listen, stop)
            going = [i for i, left in enumerate(canvas.left.tolist()) if left and rows[i].ended is None]
            if len(going) < len(rows) and (not going or 2 * len(going) <= len(rows)):
                for row, text in zip(rows, canvas.texts(), strict=True):
                    row.text = text
                if not going:
                    break
                canvas, rows = canvas.select(going), [rows[i] for i in going]
                for reader in readers:
                    reader.select(going, canvas.tokens.shape[1])
            asking = torch.tensor([row.ended is None for row in rows], device=canvas.tokens.device)[:, None]
            chosen = self.how.blind(canvas, [row.generator for row in rows])
            asked = (self.how.asks(canvas) if chosen is None else chosen) & asking
            if bool(asked.any()):
                logits = self._logits(readers, canvas, rows, asked)
                self._show(canvas, rows, self._advance(canvas, logits, rows, asked, blind=chosen is not None))
            canvas.stepped()
        # A row that was ended keeps what it had told, another one keeps all.
        return [[row.text[place] for place in row.holes[: row.told if row.ended else None]] for row in every]

    def _logits(self, readers: list[Reader], canvas: Canvas, rows: list[SampleInHand], asked: Tensor) -> Tensor:
        """Logits (n, ids) of the asked tokens, row by row, of one call, which is charged to the rows."""
        of = asked if self.guide is None else _readable(canvas, readers[0].filling) & asked.any(-1, keepdim=True)
        shown = [canvas.tokens, torch.where(canvas.given, canvas.mask, canvas.tokens)]
        found = [reader.logits(canvas, tokens, of) for reader, tokens in zip(readers, shown, strict=False)]
        logits = found[0][0] if len(found) == 1 else _apart(found[0][0], found[1][0], self.how.guidance)
        if self.guide is not None:
            whole = logits.new_zeros(*of.shape, logits.shape[-1])
            whole[of] = logits
            logits = self.guide(whole, canvas.tokens)[asked]
        limit = self.how.ids
        if limit is not None and limit < logits.shape[-1]:
            logits = logits[..., :limit]
        finite(logits)
        for _, costs in found:
            for row, cost, mine in zip(rows, costs, asked.any(-1).tolist(), strict=True):
                row.cost, row.calls = row.cost + (cost if mine else Cost(0, cost.executed)), row.calls + mine
        return logits

    def _advance(
        self, canvas: Canvas, logits: Tensor, rows: list[SampleInHand], asked: Tensor, *, blind: bool
    ) -> Tensor:
        """Show tokens on the canvas, of which only the asked ones are looked at; which: bool (batch, length)."""
        part, where = canvas.only(asked)
        inside = asked.gather(1, where)
        compact = logits.new_zeros(*inside.shape, logits.shape[-1])
        compact[inside] = logits
        generators = [row.generator for row in rows]
        shown = self.how.advance(part, compact, generators, inside if blind else None)
        canvas.put_back(asked, part)
        found = torch.zeros_like(asked)
        found[asked] = shown[inside]
        return found

    def _show(self, canvas: Canvas, rows: list[SampleInHand], shown: Tensor) -> None:
        if self.watch is None:
            return
        for i, place in shown.nonzero().tolist():
            self.watch(rows[i].prompt, rows[i].sample, place, int(canvas.tokens[i, place]))

    def _tell(self, canvas: Canvas, rows: list[SampleInHand], listen: Listener | None, stop: int | None) -> None:
        """Tell each row's tokens that are certain, up to the first that is hidden; a stop or the listener ends it."""
        tokens, hidden = canvas.tokens.tolist(), canvas.hidden.tolist()
        for i, row in enumerate(rows):
            if self.how.rewrites and any(hidden[i]):
                continue
            holes = row.holes
            while row.ended is None and row.told < len(holes) and not hidden[i][holes[row.told]]:
                token = tokens[i][holes[row.told]]
                if token == stop:
                    row.ended = "stop"
                    break
                row.told += 1
                if listen is not None and listen(row.prompt, row.sample, token):
                    row.ended = "told"


def checked(template: Template, number: int, filling: Filling, infilling: bool) -> Template:
    """A template as it is, if a model of such conventions can write in it.

    Args:
        template: ids, None where something is hidden.
        number: of the prompt or template.
        filling: the model's conventions.
        infilling: it is no prompt that is gone on from.

    Raises:
        UsageError: it hides nothing, holds an id that stands for no text, or hides what the model cannot predict.

    Example:
        >>> from isoflop.models.patterns.full import FullPattern
        >>> checked([5, None], 0, Filling(mask=9, ids=9, pattern=FullPattern()), infilling=True)
        [5, None]
    """
    where = f"generate: {'template' if infilling else 'prompt'} {number}"
    if infilling and None not in template:
        raise UsageError("hides nothing that could be filled in", where=where, fix="leave a gap")
    no_text = (i for i in template if i is not None and (i == filling.mask or not 0 <= i < filling.ids))
    if (found := next(no_text, None)) is not None:
        which = "the mask's id" if found == filling.mask else "the id"
        fix = "hidden tokens are said by gaps, and text by the ids of the tokenizer"
        raise UsageError(f"holds {which} {found}, which stands for no text", where=where, fix=fix)
    if filling.shifted and (not template or template[0] is None):
        what = "hides its first token, and this model predicts each token from the position before it"
        raise UsageError(what, where=where, fix="begin it with the end-of-text id")
    return template


def _apart(logits: Tensor, blind: Tensor, weight: float) -> Tensor:
    """Classifier-free guidance: away from what is predicted without the prompt (Nie et al. 2025, arXiv 2410.18514)."""
    finite = torch.isfinite(logits)
    return torch.where(finite, logits + weight * (logits - blind.where(finite, logits)), logits)


def _readable(canvas: Canvas, filling: Filling) -> Tensor:
    """Every token that the model has logits for: bool (batch, length)."""
    readable = canvas.inside
    if filling.shifted:
        readable[:, 0] = False
    return readable

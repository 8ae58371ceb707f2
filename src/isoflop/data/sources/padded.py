"""Padding: rows of one document each, filled up with ends of text."""

from __future__ import annotations

from typing import Any

from ...core.context import Context
from ...core.errors import DataError
from ...core.registry import Card, part
from ..corpus import Corpus
from ..padding import DocumentRows, PaddedBatches
from ..puzzles import Ends
from ..relaid import Relaid, RelaidTextPart
from ..text_source import TextSourcePart


class Padded(Relaid[Corpus]):
    """A live corpus whose training rows are single documents; everything else is the corpus' own.

    Example, with ``ctx`` a context of two rows of 16:
        >>> from isoflop.core.registry import get
        >>> source = PaddedPart(source=get("source", "pcfg")(text_bytes=9000)).build(ctx)
        >>> tuple(next(source.batches(ctx)).targets.shape)
        (2, 16)
    """

    def __init__(self, corpus: Corpus, ctx: Context, ends: Ends) -> None:
        super().__init__(corpus)
        self.ends = ends
        self.rows = self._rows(ctx.length)

    def _rows(self, length: int) -> DocumentRows:
        return DocumentRows.of(self.source.stream("train"), length, self.ends == "all")

    def batches(self, ctx: Context) -> PaddedBatches:
        """Training batches of ``ctx.batch`` documents, in the order of ctx.rng("data"); DataError if there are none."""
        rows = self.rows if ctx.length == self.rows.length else self._rows(ctx.length)
        if not len(rows.chosen):
            what = f"holds no document of which anything is predicted in {ctx.length} tokens"
            raise DataError(what, where="source", fix="lengthen train.length, or shorten the prompts")
        return PaddedBatches(
            rows, batch=ctx.batch, rng=ctx.rng("data"), fingerprint=self.fingerprint, device=ctx.device
        )

    @property
    def remarks(self) -> list[str]:
        """What a user should know of the tokens, and of how they fill rows."""
        rows = self.rows
        said = f"; {rows.cut:,} documents are longer and are cut" if rows.cut else ""
        return [
            *self.source.remarks,
            f"each row of {rows.length:,} tokens holds one of {len(rows.chosen):,} documents{said}",
        ]


@part
class PaddedPart(RelaidTextPart):
    """Another source's documents, a row each, filled up with ends of text that are predicted, too.

    Use it to fine-tune a model that fills in on answers: it is given more places than an answer takes, and learns that
    the rest are ends. With ``ends`` "one" what lies behind is padding, for a model that inserts. Held-out text is
    measured as the other source gives it.

    Example:
        >>> PaddedPart.model_validate({"source": "stdlib"}).ends
        'all'
    """

    ends: Ends = "all"
    """Ends of text that are predicted behind a document: "all" of its row, or "one"."""
    card = Card(
        summary="A document a row, filled up with ends of text, on which there is a loss as on the answer",
        paper="Nie et al. 2025, LLaDA, arXiv 2502.09992, section 2.3",
        equation="row = prompt, answer, end, end, ..., end",
        differs="every row is as long as train.length, where the authors fill up to the longest of a batch; documents "
        "longer than a row are cut",
        cost="full rows, whatever documents fill of them: choose a length that most fit into, not a much longer one",
    )

    def check(self, recipe: Any) -> list[str]:
        problems = []
        if not isinstance(self.source, TextSourcePart):
            problems.append(f"source.source: {self.source.name} gives no documents to pad; name a source of text")
        if self.ends == "none":
            problems.append("source.ends: a document of a text ends; use one or all")
        if recipe.budget.axis == "tokens" and recipe.source is self:
            problems.append(
                "budget.tokens: how many tokens a step predicts depends on its documents; give steps or flops"
            )
        return problems

    def laid_out(self, corpus: Corpus, ctx: Context) -> Padded:
        return Padded(corpus, ctx, self.ends)

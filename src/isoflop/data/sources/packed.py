"""Packing: windows that hold whole documents, which do not see each other."""

from __future__ import annotations

from typing import Any

from ...core.context import Context
from ...core.registry import Card, part
from ..corpus import Corpus
from ..packing import Overlong, PackedBatches, Packing
from ..relaid import Relaid, RelaidTextPart
from ..text_source import TextSourcePart


class Packed(Relaid[Corpus]):
    """A live corpus whose training windows are packed; everything else is the corpus' own.

    Example:
        >>> from pathlib import Path
        >>> from isoflop.core.registry import get
        >>> from isoflop.core.rng import Rng
        >>> ctx = Context(Rng(0), Path("cache"), get("tokenizer", "bytes")(), vocab_size=257, batch=2, length=64)
        >>> source = PackedPart(source=get("source", "pcfg")(text_bytes=9000)).build(ctx)
        >>> tuple(next(source.batches(ctx)).inputs.shape), source.packing.padding < 0.1
        ((2, 64), True)
    """

    def __init__(self, corpus: Corpus, ctx: Context, overlong: Overlong) -> None:
        super().__init__(corpus)
        self.overlong = overlong
        self.packing = Packing.of(corpus.stream("train"), ctx.length, overlong)

    def batches(self, ctx: Context) -> PackedBatches:
        """Training batches of ``ctx.batch`` packed windows, in the order of ctx.rng("data")."""
        packing = self.packing
        if ctx.length != packing.length:  # other lengths than the run's own are asked for by tests of the data only
            packing = Packing.of(self.source.stream("train"), ctx.length, self.overlong)
        return PackedBatches(
            self.source.stream("train"),
            packing,
            batch=ctx.batch,
            rng=ctx.rng("data"),
            fingerprint=self.fingerprint,
            device=ctx.device,
        )

    def describe(self) -> dict[str, Any]:
        """The corpus' own JSON, and how it is packed."""
        packing = self.packing
        figures = {"windows": packing.windows, "padding": packing.padding, "overlong": packing.overlong}
        return {**self.source.describe(), "packing": {**figures, "dropped_tokens": packing.dropped}}

    @property
    def remarks(self) -> list[str]:
        """What a user should know of the tokens, and of how they are packed."""
        packing, said = self.packing, ""
        if packing.overlong:
            done = "split" if self.overlong == "split" else f"cut ({packing.dropped:,} tokens are left out)"
            said = f"; {packing.overlong:,} documents are longer than a window and are {done}"
        windows = f"{packing.windows:,} windows of {packing.length:,} tokens"
        return [*self.source.remarks, f"{windows} are packed, {packing.padding:.1%} of them padding{said}"]


@part
class PackedPart(RelaidTextPart):
    """Another source's documents, packed into training windows. They do not see each other, whatever else is set.

    Each window holds whole documents, the longest first; positions that are left over are padding, which is computed
    and not predicted. Held-out text is measured as the other source gives it.

    Use it where documents are short and should be learned from each by itself: answers, conversations, records.

    Example:
        >>> PackedPart.model_validate({"source": "stdlib"}).overlong
        'split'
    """

    overlong: Overlong = "split"
    """What becomes of a document that is longer than a window: "split" into several, or "cut" after the first."""
    card = Card(
        summary="Documents packed into windows by first fit decreasing; none sees another.",
        paper="Johnson 1973; for language models Krell et al. 2021, arXiv 2107.02027",
        equation="longest first, each into the first window with room",
        defaults="documents longer than a window are split",
        cost="the windows' full price, padding included: a run says what share that is, usually below 1 % where most "
        "documents are much shorter than a window",
    )

    def check(self, recipe: Any) -> list[str]:
        problems = []
        if not isinstance(self.source, TextSourcePart):
            problems.append(f"source.source: {self.source.name} gives no documents to pack; name a source of text")
        if recipe.budget.axis == "tokens" and recipe.source is self:
            problems.append(
                "budget.tokens: how many tokens a step predicts depends on how its windows are filled; give "
                "budget.text_bytes, or a budget in steps or flops"
            )
        return problems

    def laid_out(self, corpus: Corpus, ctx: Context) -> Packed:
        return Packed(corpus, ctx, self.overlong)

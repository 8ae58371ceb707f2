"""Packing: windows that hold whole documents, which do not see each other."""

from __future__ import annotations

from typing import Any, ClassVar

from ...core.context import Context
from ...core.contracts import SourcePart, Stateful
from ...core.registry import Card, part
from ...core.slots import SourceSlot
from ..corpus import Corpus
from ..loader import HeldOutText
from ..packing import Overlong, PackedBatches, Packing
from ..text_source import TextSourcePart


class Packed:
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
        self.corpus, self.overlong = corpus, overlong
        self.fingerprint = corpus.fingerprint
        self.packing = Packing.of(corpus.stream("train"), ctx.length, overlong)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.corpus, name)

    def batches(self, ctx: Context) -> PackedBatches:
        """Training batches of ``ctx.batch`` packed windows, in the order of ctx.rng("data")."""
        packing = self.packing
        if ctx.length != packing.length:  # other lengths than the run's own are asked for by tests of the data only
            packing = Packing.of(self.corpus.stream("train"), ctx.length, self.overlong)
        return PackedBatches(
            self.corpus.stream("train"),
            packing,
            batch=ctx.batch,
            rng=ctx.rng("data"),
            fingerprint=self.fingerprint,
            device=ctx.device,
        )

    def heldout(self) -> dict[str, HeldOutText]:
        """The corpus' own: held-out text is not packed."""
        return dict(self.corpus.heldout())

    def describe(self) -> dict[str, Any]:
        """The corpus' own JSON, and how it is packed."""
        packing = self.packing
        figures = {"windows": packing.windows, "padding": packing.padding, "overlong": packing.overlong}
        return {**self.corpus.describe(), "packing": {**figures, "dropped_tokens": packing.dropped}}

    @property
    def remarks(self) -> list[str]:
        """What a user should know of the tokens, and of how they are packed."""
        packing, said = self.packing, ""
        if packing.overlong:
            done = "split" if self.overlong == "split" else f"cut ({packing.dropped:,} tokens are left out)"
            said = f"; {packing.overlong:,} documents are longer than a window and are {done}"
        windows = f"{packing.windows:,} windows of {packing.length:,} tokens"
        return [*self.corpus.remarks, f"{windows} are packed, {packing.padding:.1%} of them padding{said}"]


@part
class PackedPart(SourcePart):
    """Another source's documents, packed into training windows. They do not see each other, whatever else is set.

    Each window holds whole documents, the longest first; positions that are left over are padding, which is computed
    and not predicted. Held-out text is measured as the other source gives it.

    Use it where documents are short and should be learned from each by itself: answers, conversations, records.

    Example:
        >>> PackedPart.model_validate({"source": "stdlib"}).overlong
        'split'
    """

    provides: ClassVar[frozenset[type]] = frozenset({Stateful})
    source: SourceSlot
    """Where the documents come from: any source of text."""
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

    @property
    def predicts_all(self) -> bool:
        return False

    @property
    def text(self) -> TextSourcePart:
        """The source of the documents, which the recipe has found to be one of text."""
        assert isinstance(self.source, TextSourcePart)
        return self.source

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

    def build(self, ctx: Context) -> Packed:
        return Packed(self.text.build(ctx), ctx, self.overlong)

    def kept(self, fingerprint: str, ctx: Context) -> Packed | None:
        """The source of old with that fingerprint, if the cache holds it still (``core.contracts.KeepsText``)."""
        found = self.text.kept(fingerprint, ctx)
        return None if found is None else Packed(found, ctx, self.overlong)

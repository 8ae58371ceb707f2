"""Progressive unmasking of another source's rows, for masked diffusion."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field, NonNegativeInt, PositiveInt

from ...core.context import Context
from ...core.contracts import KeepsText, Source, SourcePart, Stateful
from ...core.registry import Card, part
from ...core.slots import SourceSlot
from ..progressive import ProgressiveBatches, Stages
from ..relaid import Relaid


class Progressive(Relaid[Source]):
    """A live source whose training rows are shown progressively; everything else is that source's own.

    Example, with ``ctx`` a context of two rows of 16:
        >>> from isoflop.core.registry import get
        >>> source = ProgressivePart(source=get("source", "pcfg")(text_bytes=9000)).build(ctx)
        >>> next(source.batches(ctx)).columns["hidden"].any(1).tolist()
        [True, True]
    """

    def __init__(self, source: Source, stages: Stages) -> None:
        super().__init__(source)
        self.stages = stages

    def batches(self, ctx: Context) -> ProgressiveBatches:
        """Training batches of ``ctx.batch`` rows, which hear the loss of each."""
        return ProgressiveBatches(
            self.source.batches(ctx.having(batch=1)),
            self.stages,
            batch=ctx.batch,
            accumulate=ctx.accumulate,
            rng=ctx.rng("progressive"),
            fingerprint=self.fingerprint,
        )


@part
class ProgressivePart(SourcePart):
    """Another source's rows, each of which stays for some steps and is shown more at each, where the model is surest.

    For objective ``masked``, which then hides what this says and not what it draws. It trains on the masks that a
    decoder by confidence meets: faster where such a decoder is used, worse at what only other orders solve.

    Example:
        >>> ProgressivePart.model_validate({"source": "stdlib"}).phases
        8
    """

    provides: ClassVar[frozenset[type]] = frozenset({Stateful})
    source: SourceSlot
    """Where the rows come from."""
    phases: Annotated[int, Field(ge=2)] = 8
    """Steps that a row stays, at the beginning of the run."""
    more: NonNegativeInt = 0
    """Phases that are added after each ``every`` steps."""
    every: PositiveInt = 1000
    """Steps after which phases are added."""
    most: PositiveInt = 64
    """Phases that are reached so at most."""
    sure: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Probability from which on a place is shown at once (0.9 by the authors); by default none is."""
    block: PositiveInt | None = None
    """Tokens of a block: blocks are shown one after another. By default all of a row is one."""
    card = Card(
        summary="Masks that follow the model: places are shown where it is surest, a little more each step",
        paper="Kim et al. 2026, PUMA, progressive unmasking",
        equation="after phase k of K show max(0, round(U(k/K, (k+1)/K) L) - shown) places of largest max log p",
        defaults="K = 8 on Sudoku; 12 to 42, 3 more each 30,000 steps, and sure = 0.9 on TinyGSM",
        differs="the mask id is no candidate of the confidence; where phases are added, rows keep what is shown",
        cost="nothing beyond the loss: its own pass says how sure the model is",
    )

    @property
    def vocab_size(self) -> int | None:
        return self.source.vocab_size

    @property
    def predicts_all(self) -> bool:
        return self.source.predicts_all

    @property
    def text(self) -> Any:
        """The source of the documents, of which the rows are made."""
        return getattr(self.source, "text", self.source)

    def check(self, recipe: Any) -> list[str]:
        problems, filling = [], recipe.objective.filling(recipe.vocab_size)
        if filling is None or filling.times:
            problems.append(
                f"source: progressive hides tokens, which {recipe.objective.name} does not fill in; use masked"
            )
        if recipe.budget.axis == "text_bytes":
            problems.append(
                "budget.text_bytes: how long a row stays depends on what the model learns; give steps or flops"
            )
        if recipe.budget.axis == "tokens" and not self.predicts_all:
            problems.append("budget.tokens: rows are filled differently; give a budget in steps or flops")
        return problems

    def build(self, ctx: Context) -> Progressive:
        return Progressive(self.source.build(ctx), self._stages)

    def kept(self, fingerprint: str, ctx: Context) -> Progressive | None:
        """The source of old with that fingerprint, if the cache holds it still (``core.contracts.KeepsText``)."""
        found = self.source.kept(fingerprint, ctx) if isinstance(self.source, KeepsText) else None
        return None if found is None else Progressive(found, self._stages)

    @property
    def _stages(self) -> Stages:
        return Stages(self.phases, self.more, self.every, max(self.most, self.phases), self.sure, self.block)

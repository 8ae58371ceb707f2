"""What a law says of when to begin to round weights, beside what a recipe does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..core.recipe import Recipe


@dataclass(frozen=True)
class RoundingAdvice:
    """How a recipe divides its tokens between plain and rounded weights, and how the law would.

    Args:
        bits: a rounded weight.
        share: of all tokens, those that weights are rounded for.
        best: the law's share; None where it is silent.
        begin: what ``begin`` would be for it; None where the run alone cannot have it.
        tokens_per_byte: S, tokens a byte of the rounded parameters.
        rate: of its peak, the learning rate when rounding begins.
        before: tokens of the run that this one starts from.

    Example:
        >>> advice = RoundingAdvice(bits=4, share=0.2, best=0.161, begin=0.839, tokens_per_byte=40.0, rate=1.0)
        >>> advice.line()
        'weights of 4 bits for 20.0% of the tokens; the law has its best share at 16.1%, begin = 0.839 (40 tokens a \
parameter byte); the cool-down is fused: the rate is at 100% of its peak when rounding begins'
    """

    bits: float
    share: float
    best: float | None
    begin: float | None
    tokens_per_byte: float
    rate: float
    before: int = 0

    def line(self) -> str:
        """The whole in one line."""
        tokens = f"{self.tokens_per_byte:.3g} tokens a parameter byte"
        if self.best is None:
            law = f"the law says nothing of so few ({tokens})"
        else:
            where = "" if self.begin is None else f", begin = {self.begin:.3g}"
            law = f"the law has its best share at {self.best:.1%}{where} ({tokens})"
        if self.before:
            cooled = f"the cool-down is separate: {self.before:,} tokens of the start came before, with their own"
        else:
            kind = "fused" if self.rate > 0.5 else "mostly over by then"
            cooled = f"the cool-down is {kind}: the rate is at {self.rate:.0%} of its peak when rounding begins"
        return f"weights of {self.bits:.3g} bits for {self.share:.1%} of the tokens; {law}; {cooled}"


def rounding_advice(recipe: Recipe, root: Path, parameters: int, tokens: int, steps: int) -> RoundingAdvice | None:
    """The law's advice for a run, by the published constant; None where nothing is rounded or no horizon is known.

    Args:
        recipe: of the run.
        root: directory of runs.
        parameters: of the model.
        tokens: of the run.
        steps: of the run; 0 where they are not known.
    """
    from ..laws.forms.qat_fraction import published_share

    part = _rounding(recipe)
    if part is None or not steps:
        return None
    bits, begin = part.bits_in_use or 0.0, float(part.begin)
    before = _plain_tokens(recipe, root)
    whole = before + tokens
    best = published_share(parameters, whole, bits)
    reached = None if best is None or best * whole > tokens else 1 - best * whole / tokens
    factors = [recipe.schedule.factor(t, steps) for t in range(0, steps, max(1, steps // 1000))]
    rate = recipe.schedule.factor(min(round(begin * steps), steps - 1), steps) / max(factors)
    share = (1 - begin) * tokens / whole
    return RoundingAdvice(bits, share, best, reached, whole / (parameters * bits / 8), rate, before)


def _rounding(recipe: Recipe) -> Any:
    """The part that rounds weights from a step of its own on (its key ``begin``), the last of several, or None."""
    from ..core.contracts import ParametrizationPart

    found = [part for _, part in recipe.parts() if isinstance(part, ParametrizationPart) and hasattr(part, "begin")]
    return next((part for part in reversed(found) if part.bits_in_use is not None), None)


def _plain_tokens(recipe: Recipe, root: Path) -> int:
    """Tokens of the run that this one starts from, if it does from one of ours that rounded nothing."""
    from ..store.references import locate

    if recipe.start is None or recipe.start.published:
        return 0
    run = locate("start", recipe.start, root).run
    return 0 if _rounding(run.recipe) else round(run.figure("tokens"))

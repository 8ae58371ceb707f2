"""What became of a claim: each bar against what was found, and the weakest of those that decide.

A bar has a size and a point where the direction turns (the null). Its interval decides: wholly beyond the size, it is
reproduced in size; wholly beyond the null, in direction; wholly on the other side of it, contradicted; else these
seeds do not tell. Every deciding bar must hold, so a success needs no correction for their number: requiring more of
them only makes it rarer. One failure is enough to contradict, so that one is asked at 5 % over their number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ...core.errors import DataError
from ...core.significance import LEVEL
from .claim import Claim, ClaimBar
from .findings import Finding, Stored, finding

Outcome = Literal[
    "holds exactly", "reproduced in size", "reproduced in direction", "not significant", "contradicted"
]  # fmt: skip
OUTCOMES: tuple[Outcome, ...] = (
    "holds exactly", "reproduced in size", "reproduced in direction", "not significant", "contradicted",
)  # fmt: skip
PLANNED = "planned"
"""The status of a claim whose studies have not all been run."""


@dataclass(frozen=True)
class JudgedBar:
    """A bar, what was found, and what became of it.

    Example:
        >>> from isoflop.lab.claims.findings import Finding
        >>> bar = ClaimBar(says="low", study="s", value="loss", at_most=2.0)
        >>> JudgedBar(bar, Finding(1.5, 1.4, 1.6), "reproduced in size").text()
        '1.5, 95 % [1.4, 1.6] (asked: at most 2)'
    """

    bar: ClaimBar
    found: Finding
    outcome: Outcome

    @property
    def size(self) -> float:
        """The threshold that was asked for."""
        size = self.found.size if self.bar.size is None else self.bar.size
        assert size is not None
        return size

    def text(self) -> str:
        """What was found, in figures."""
        found, asked = self.found, f"{'at least' if self.bar.sense > 0 else 'at most'} {self.size:g}"
        if math.isnan(found.value):
            known = f"> {found.low:.3g}" if found.low > -math.inf else f"< {found.high:.3g}"
            return f"{known if found.known else 'not known'} (asked: {asked}; {found.note})"
        within = "every seed" if self.bar.exact else "each" if self.bar.p_value else "95 %"
        ends = f", {within} [{found.low:.4g}, {found.high:.4g}]" if found.known else ""
        return f"{found.value:.4g}{ends} (asked: {asked}{'; ' + found.note if found.note else ''})"


@dataclass(frozen=True)
class ClaimVerdict:
    """What became of a claim.

    Attributes:
        claim: what was claimed.
        status: one of ``OUTCOMES``, or "planned".
        bars: every bar with what was found; none where the claim is planned.
        missing: studies that have not been run.
        marks: what a reader must hold against it: bars changed after the first run, a study edited since.
        cpu_seconds: what its runs took, as far as they know.
        flops: model FLOPs of all phases.
        commits: of the code that made the results.

    Example:
        >>> from isoflop.lab.claims.claim import Claim
        >>> words = dict(name="x", statement="", axis="", figure="", setting="", studies={"s": "demo"})
        >>> bar = dict(says="low", study="s", value="loss", at_most=2.0)
        >>> ClaimVerdict(Claim.from_json({**words, "bars": [bar]}), "planned", missing=("s",)).headline
        'planned'
    """

    claim: Claim
    status: str
    bars: tuple[JudgedBar, ...] = ()
    missing: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()
    cpu_seconds: float = 0.0
    flops: float = 0.0
    commits: tuple[str, ...] = field(default=())

    @property
    def headline(self) -> str:
        """The status with what was found for the weakest deciding bar."""
        return f"{self.status}: {self.told}" if self.bars else self.status

    @property
    def told(self) -> str:
        """What was found for the weakest deciding bar, or which studies have not been run."""
        if not self.bars:
            some = len(self.missing) < len(self.claim.studies)
            return f"not run yet: {', '.join(self.missing)}" if some else "not run yet"
        deciding = [judged for judged in self.bars if judged.bar.decides]
        worst = max(deciding, key=lambda judged: OUTCOMES.index(judged.outcome))
        return f"{worst.bar.says}: {worst.text()}"


def outcome(bar: ClaimBar, found: Finding, corrected: Finding | None = None) -> Outcome:
    """What became of a bar.

    Args:
        bar: what was asked.
        found: what was measured.
        corrected: the same with the interval that must contradict; default: the same interval.
    """
    size = found.size if bar.size is None else bar.size
    if size is None:
        raise DataError("has no size to be held against", where=bar.says)
    null = size if bar.null is None else bar.null
    # turned so that more is better
    low = found.low if bar.sense > 0 else -found.high
    most = corrected or found
    high = most.high if bar.sense > 0 else -most.low
    size, null = bar.sense * size, bar.sense * null
    if bar.p_value:
        return "reproduced in direction" if low >= size else "not significant"
    if bar.exact:
        return "holds exactly" if low >= size else "contradicted"
    if low >= size:
        return "reproduced in size"
    if low > null:
        return "reproduced in direction"
    return "contradicted" if high < null else "not significant"


def judged(claim: Claim, results: Mapping[str, Stored]) -> tuple[str, tuple[JudgedBar, ...]]:
    """A claim's status and bars; "planned" where a result is missing.

    Args:
        claim: what was claimed.
        results: of its studies, by label.
    """
    if any(label not in results for label in claim.studies):
        return PLANNED, ()
    level = 1 - (1 - LEVEL) / sum(bar.decides for bar in claim.bars)
    bars = tuple(_judged(bar, results, level) for bar in claim.bars)
    return weakest([each.outcome for each in bars if each.bar.decides]), bars


def weakest(outcomes: Sequence[Outcome]) -> Outcome:
    """The weakest of several outcomes: a claim is no better than its worst bar."""
    return max(outcomes, key=OUTCOMES.index)


def _judged(bar: ClaimBar, results: Mapping[str, Stored], level: float) -> JudgedBar:
    result, other = results[bar.study], None if bar.less is None else results[bar.less.study]
    found = finding(bar, result, other=other)
    return JudgedBar(bar, found, outcome(bar, found, finding(bar, result, level, other)))

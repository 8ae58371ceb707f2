"""What became of the bars of a pipeline."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy as np

from ..core.significance import LEVEL, half_width, holm, p_value
from ..store.pipelines import BarVerdict, StageRow, values_of
from .pipeline import Bar


def judge(bars: Sequence[Bar], rows: Sequence[StageRow], metric: str) -> list[BarVerdict]:
    """What became of every bar.

    Args:
        bars: what was asked.
        rows: what the stages measured.
        metric: that of bars which name none.
    """
    sums = [
        np.sum(
            [c * np.array(values_of(rows, s, bar.texts, bar.metric or metric)) for s, c in bar.terms.items()], axis=0
        )
        for bar in bars
    ]
    adjusted = holm([p_value(found - bar.most) for found, bar in zip(sums, bars, strict=True)])
    verdicts = []
    for bar, found, p in zip(bars, sums, adjusted, strict=True):
        mean, half = float(found.mean()), float(half_width(found))
        decided: Literal["met", "missed"] = "met" if mean <= bar.most else "missed"
        verdicts.append(
            BarVerdict(
                says=bar.says,
                per_seed=found.tolist(),
                mean=mean,
                low=mean - half,
                high=mean + half,
                most=bar.most,
                p=1.0 if p is None else p,
                verdict=decided if p is not None and p < 1 - LEVEL else "open",
            )
        )
    return verdicts


def flops_of(ledgers: Iterable[Mapping[str, Mapping[str, float]]], phases: Sequence[str]) -> float:
    """Model FLOPs of some phases, summed over ledgers."""
    return sum(float(ledger.get(phase, {}).get("flops", 0)) for ledger in ledgers for phase in phases)

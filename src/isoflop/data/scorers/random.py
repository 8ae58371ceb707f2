"""Chance: the baseline of every selection."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ...core.contracts import ScorerPart
from ...core.cost import Cost
from ...core.digests import document_hash
from ...core.registry import Card, part


class RandomScores:
    """A number in [0, 1) by each document's text alone: the same text, the same number, wherever it lies.

    Args:
        seed: another one gives other numbers.

    Example:
        >>> one, two = RandomScores(0).score([("a", "text"), ("b", "text")]).tolist()
        >>> one == two, one == RandomScores(1).score([("a", "text")]).tolist()[0]
        (True, False)
    """

    cost = Cost()

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def score(self, documents: Sequence[tuple[str, str]]) -> npt.NDArray[np.float64]:
        hashes = b"".join(document_hash(f"{self.seed}:{text}")[:8] for _, text in documents)
        return np.frombuffer(hashes, "<u8") / 2.0**64


@part
class RandomPart(ScorerPart):
    """A uniform number by the document's text. Use it as the baseline that every other scorer has to beat.

    Example:
        >>> 0 <= RandomPart().build({}, {}).score([("a", "text")]).tolist()[0] < 1
        True
    """

    seed: int = 0
    """Another one draws anew."""
    card = Card(summary="A uniform number by a hash of the document's text.", equation="score ~ U[0, 1)", cost="none")

    def build(self, texts: Mapping[str, Iterable[str]], models: Mapping[str, Any]) -> RandomScores:
        return RandomScores(self.seed)

"""Length of a document: the plainest score there is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ...core.contracts import ScorerPart
from ...core.cost import Cost
from ...core.registry import Card, part


class Length:
    """Characters of each document.

    Example:
        >>> Length().score([("a", "four"), ("b", "to")]).tolist()
        [4.0, 2.0]
    """

    cost = Cost()

    def score(self, documents: Sequence[tuple[str, str]]) -> npt.NDArray[np.float64]:
        return np.fromiter((len(text) for _, text in documents), np.float64, len(documents))


@part
class LengthPart(ScorerPart):
    """The longer, the better. Use it as a baseline beside scorers that might only prefer long documents.

    Example:
        >>> LengthPart().build({}, {}).score([("a", "four")]).tolist()
        [4.0]
    """

    card = Card(summary="Characters of a document.", equation="score = |x|", cost="none")

    def build(self, texts: Mapping[str, Iterable[str]], models: Mapping[str, Any]) -> Length:
        return Length()

"""A classifier that fastText trained, such as DCLM's: the probability of its good label."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ...core.contracts import ScorerPart
from ...core.cost import Cost
from ...core.digests import digest_file
from ...core.errors import UsageError, nearest
from ...core.reading import user_path
from ...core.registry import Card, part
from ..engine.fasttext_models import PREFIX, fasttext_model


class LabelProbability:
    """P(label) of documents under a fastText model.

    Args:
        path: of the model.
        label: without fastText's prefix.

    Example, with the library and a model:
        >>> LabelProbability("dclm.bin", "hq").score([("a", "An explanation.")])[0] > 0.018  # doctest: +SKIP
        True
    """

    cost = Cost()

    def __init__(self, path: str, label: str) -> None:
        known = fasttext_model(path).labels
        if label not in known:
            raise UsageError(f"knows no label {label!r}", where=path, fix=nearest(label, known))
        self.path, self.label = path, label

    def score(self, documents: Sequence[tuple[str, str]]) -> npt.NDArray[np.float64]:
        found = fasttext_model(self.path).probabilities([text for _, text in documents])
        return np.array([each.get(self.label, 0.0) for each in found], np.float64)


@part
class FasttextPart(ScorerPart):
    """P(label) of a fastText classifier that exists already; it wants the extra ``fasttext``.

    Use it with DCLM's classifier, or one of your own. ``quality`` trains such a classifier here instead.

    Example:
        >>> FasttextPart(path="dclm.bin").label
        'hq'
    """

    path: str
    """The model's file, .bin or .ftz."""
    label: str = "hq"
    """Whose probability is the score; DCLM's good label is __label__hq."""
    card = Card(
        summary="P(label) of a fastText classifier that was trained elsewhere.",
        paper="Li et al. 2024, arXiv 2406.11794; Joulin et al. 2017, arXiv 1607.01759",
        equation="score = P(label | x)",
        defaults="DCLM keeps what lies above 0.018112, a tenth of its pool",
        differs="line ends are blanks: fastText reads lines",
        cost="no FLOPs of the matmul class; training it is on nobody's bill",
    )

    def inputs(self) -> str:
        """SHA-256 of the file."""
        return digest_file(user_path(self.path))

    def build(self, texts: Mapping[str, Iterable[str]], models: Mapping[str, Any]) -> LabelProbability:
        return LabelProbability(self.path, self.label.removeprefix(PREFIX))

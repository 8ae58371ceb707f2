"""Loss from size, vocabulary and text (after Tao et al. 2024, arXiv 2407.13623)."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from ...core.registry import Card, part
from ..formula import Columns, Parameter, Params, Values, coefficient, exponent
from ..law import Law

_GRID = (0.05, 0.1, 0.2, 0.35, 0.6, 1.0)


@part
class Vocabulary(Law):
    """L = E + A / N^a + B / V^b + C V^g / H^c: a larger vocabulary says more, and needs more text to be learnt.

    The loss is comparable between vocabularies, as one a character or normalised by a unigram model's, which is why E
    may be negative.
    """

    card: ClassVar[Card] = Card(
        summary="Loss from parameters beside the vocabulary, vocabulary size and characters of text.",
        paper="Tao et al. 2024, arXiv 2407.13623",
        equation="L = E + A / N^a + B / V^b + C V^g / H^c",
        defaults="least squares on the loss itself",
        differs="the data term grows with the vocabulary (g = 0 is the authors' form)",
    )
    columns: ClassVar[dict[str, str]] = {
        "N": "parameters beside the vocabulary's",
        "V": "vocabulary size",
        "H": "characters of training text",
    }
    link: ClassVar[Any] = "identity"
    defaults: ClassVar[dict[str, Any]] = {"loss": "l2"}
    parameters: ClassVar[tuple[Parameter, ...]] = (
        coefficient("A"),
        coefficient("B"),
        coefficient("C"),
        Parameter("E", -100.0, 100.0, linear=True),
        exponent("a", starts=_GRID),
        exponent("b", starts=_GRID),
        exponent("c", starts=_GRID),
        Parameter("g", -1.0, 2.0, (0.0, 0.2, 0.5), kind="exponent"),
    )

    def predict(self, p: Params, x: Columns) -> Values:
        n, v, h = np.log(x["N"]), np.log(x["V"]), np.log(x["H"])
        text = p["C"] * np.exp(p["g"] * v - p["c"] * h)
        return p["E"] + p["A"] * np.exp(-p["a"] * n) + p["B"] * np.exp(-p["b"] * v) + text

    def compute(self, x: Columns) -> Values:
        return np.asarray(x["N"], dtype=float) * np.asarray(x["H"], dtype=float)

"""Loss from size, vocabulary and text (after Tao et al. 2024, arXiv 2407.13623)."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from ...core.registry import Card, part
from ..formula import Columns, Parameter, Params, Values, coefficient, exponent
from ..law import Law

# Three exponents at once: six each, evenly in logarithms over what exponents of losses are, is 216 starts.
_GRID = (0.05, 0.1, 0.2, 0.35, 0.6, 1.0)


@part
class Vocabulary(Law):
    """L = E + A / N^a + B / V^b + C V^g / H^c: a larger vocabulary says more, and needs more text to be learnt.

    The loss is comparable between vocabularies, as one a character or normalised by a unigram model's, which is why E
    may be negative.

    Use it to choose a vocabulary's size with the model's: small models waste parameters on large ones. The loss must be
    one that does not depend on the tokenizer's cut, nats a character say.

    Example:
        >>> constants = dict(A=400.0, a=0.34, B=8.0, b=0.3, C=8.0, g=0.4, c=0.3, E=-4.0)
        >>> sizes = np.asarray([4e3, 3e4, 2.5e5])
        >>> Vocabulary().predict(constants, {"N": 1e8, "V": sizes, "H": 1e10}).round(3).tolist()
        [-2.353, -2.381, -1.891]
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

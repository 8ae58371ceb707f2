"""What scorers ask of trained models: -log p of documents; and whether two models read text the same way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ...core.cost import Cost
from ...core.errors import UsageError

Array = npt.NDArray[np.float64]


class Reads(Protocol):
    """A trained model that reads documents."""

    name: str
    tokenizer_digest: str
    cost: Cost

    def losses(self, texts: Sequence[str]) -> tuple[Array, npt.NDArray[np.int64]]:
        """-log p in nats, (n,), and the tokens that it is over, (n,): those of the text and its end."""


def models_of(wanted: Sequence[str], models: Mapping[str, Any]) -> list[Any]:
    """The models of those names, which all cut text into the same tokens.

    Raises:
        UsageError: one is missing, or two have different tokenizers.
    """
    if missing := [name for name in wanted if name not in models]:
        fix = " ".join(f"--model {name}=RUN" for name in missing)
        raise UsageError(f"needs a model as {' and as '.join(missing)}", where="scorer", fix=fix)
    found = [models[name] for name in wanted]
    for name, model in zip(wanted[1:], found[1:], strict=True):
        if model.tokenizer_digest != found[0].tokenizer_digest:
            what = f"{wanted[0]} ({found[0].name}) and {name} ({model.name}) have different tokenizers"
            raise UsageError(
                f"{what}: their losses per token do not compare", where="scorer", fix="train both with the same one"
            )
    return found


class LossDifference:
    """Mean loss per token under one model, less that under another; or minus that of one alone.

    Args:
        plus: the model whose loss counts for a document, or None.
        minus: the model whose loss counts against it.

    Example:
        >>> class Fixed:
        ...     name, tokenizer_digest, cost = "fixed", "", Cost()
        ...     def losses(self, texts):
        ...         return np.array([float(len(text)) for text in texts]), np.array([2] * len(texts))
        >>> LossDifference(None, Fixed()).score([("a", "four")]).tolist()
        [-2.0]
    """

    def __init__(self, plus: Any | None, minus: Any) -> None:
        self.plus, self.minus = plus, minus

    @property
    def cost(self) -> Cost:
        return self.minus.cost + (self.plus.cost if self.plus is not None else Cost())  # type: ignore[no-any-return]

    def score(self, documents: Sequence[tuple[str, str]]) -> Array:
        texts = [text for _, text in documents]
        against = _mean(self.minus, texts)
        return -against if self.plus is None else _mean(self.plus, texts) - against


def _mean(model: Any, texts: Sequence[str]) -> Array:
    nats, tokens = model.losses(texts)
    return np.asarray(nats / np.maximum(tokens, 1))

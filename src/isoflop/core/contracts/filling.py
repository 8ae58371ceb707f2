"""How a model fills in what is hidden: the conventions that objectives train by and decoders write by.

There is one place for them, so that both agree: an objective's part says by ``filling`` what its models obey.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..courses import CourseName
from .pattern import Documents, Pattern, Seen

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Filling:
    """The conventions of a model that fills in hidden tokens.

    A hidden token is the id ``mask``. It is never predicted, and neither is an id from ``ids`` on: a probability is one
    among the other ids. Of an objective of ours the mask is the first id behind those of the text, so that both numbers
    are equal; a published model may have its mask among its ids.

    Args:
        mask: the id of whatever is hidden.
        ids: ids that may be written are those below, the mask left out.
        pattern: who sees whom where text is written.
        shifted: the logits of a position stand one position before it, as in an autoregressive model. The first
            position is then never hidden: text is written behind an end of text.
        block: positions of a block, where text is written block by block: a position sees its own block and those
            before; None: all of the text is one block.
        times: ids behind the mask that say how late it is, of a model that inserts tokens (``models.insertion``); such
            an id is the first one of a sequence, and of no text. 0: it inserts none.
        inserted: the course of the share of tokens that are there, hidden or not; of a model that inserts.
        unmasked: the course of the share of hidden ones that are shown; of a model that inserts, t as above.

    Example:
        >>> from isoflop.models.patterns.full import FullPattern
        >>> Filling(mask=256, ids=256, pattern=FullPattern()).shifted
        False
    """

    mask: int
    ids: int
    pattern: Pattern
    shifted: bool = False
    block: int | None = None
    times: int = 0
    inserted: CourseName = "linear"
    unmasked: CourseName = "linear"

    @property
    def masks_an_id(self) -> bool:
        """The mask is one of the ids, as in published models; ours stands behind those of the text."""
        return self.mask < self.ids

    @property
    def before(self) -> int:
        """Positions that it is fed before those of a text: what it reads on from, or how late it is."""
        return int(self.shifted or self.times > 0)

    def seen(self, documents: Tensor | None = None) -> Seen:
        """Who sees whom, within documents where their numbers (batch, length) are given: padding is one by itself."""
        return self.pattern if documents is None else Documents(documents, self.pattern)

    def logits(self, model: Any, tokens: Tensor, documents: Tensor | None = None) -> Tensor:
        """The logits of what stands at each position.

        Args:
            model: a ``Model``.
            tokens: int64 (batch, length), with ``mask`` where something is hidden.
            documents: int64 (batch, length), the number of each position's document; None: all is one.

        Returns:
            (batch, length, ids), -inf for the mask. Where the model is shifted, the first position's mean nothing.
        """
        found = self.allowed(model(tokens, self.seen(documents)))
        return found.roll(1, 1) if self.shifted else found

    def allowed(self, logits: Tensor) -> Tensor:
        """A model's logits (..., vocab) of the ids that may be written: (..., ids), -inf for the mask."""
        found = logits[..., : self.ids]
        if self.masks_an_id:
            found = found.clone()
            found[..., self.mask] = float("-inf")
        return found

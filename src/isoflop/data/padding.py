"""Rows of one document each, filled up with ends of text: how models that fill in learn where answers end.

An autoregressive model stops at the first end of text. One that fills in is given places before it knows how long an
answer is; so the places behind an answer are ends of text, too, and are predicted as the answer is (Nie et al. 2025,
LLaDA, arXiv 2502.09992, section 2.3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..core.contracts import TokenBatch
from ..core.rng import Rng
from .loader import EpochBatches, as_batch
from .streams import Stream
from .tokenizing import Ids


@dataclass(frozen=True)
class DocumentRows:
    """The documents of a stream as rows.

    Args:
        stream: the documents.
        chosen: which of them, each of which predicts something within a row.
        length: targets of a row; documents are cut there.
        every: whether every end of text behind a document is predicted, or the first one alone; then what follows it
            is padding, which the column ``documents`` keeps apart.

    Example:
        >>> from isoflop.data.tokenizers.bytes import Bytes
        >>> rows = DocumentRows.of(Stream(np.array([256, 72, 105, 256, 72, 256]), Bytes()), length=4)
        >>> batch = rows.batch([0, 1])
        >>> batch.targets.tolist(), batch.mask, batch.text_bytes
        ([[72, 105, 256, 256], [72, 256, 256, 256]], None, 3)
    """

    stream: Stream
    chosen: Ids
    length: int
    every: bool = True

    @classmethod
    def of(cls, stream: Stream, length: int, every: bool = True) -> DocumentRows:
        """Rows of all documents of which something is predicted in their first ``length`` targets."""
        stops = np.minimum(stream.stops, stream.starts + length)
        before = stream.counted()
        return cls(stream, np.flatnonzero(before[stops + 1] > before[stream.starts + 1]), length, every)

    @property
    def cut(self) -> int:
        """Documents that are longer than a row."""
        return int((self.stream.stops - self.stream.starts > self.length).sum())

    def batch(self, numbers: Sequence[int], device: str = "cpu") -> TokenBatch:
        """Some rows, by their numbers among those chosen."""
        documents = self.chosen[list(numbers)]
        starts = self.stream.starts[documents]
        stops = np.minimum(self.stream.stops[documents], starts + self.length)
        pieces = [[piece] for piece in zip(starts.tolist(), stops.tolist(), strict=True)]
        inputs, targets, counts, inside = self.stream.rows(pieces, self.length)
        lengths = self.stream.tokenizer.byte_lengths
        if self.every:
            return as_batch(inputs, targets, lengths, device, counts | (inside == 0))
        return as_batch(inputs, targets, lengths, device, counts, inside)


class PaddedBatches(EpochBatches):
    """An endless stream of batches of padded documents; see ``EpochBatches`` for their order.

    Args:
        rows: the documents.
        batch: rows of a batch.
        rng: the stream of their order.
        fingerprint: of the corpus; a position in another one is refused.
        device: where batches lie.

    Example:
        >>> from isoflop.data.tokenizers.bytes import Bytes
        >>> rows = DocumentRows.of(Stream(np.array([256, 72, 105, 256, 72, 256]), Bytes()), length=4)
        >>> next(PaddedBatches(rows, batch=2, rng=Rng(0), fingerprint="")).units
        8
    """

    def __init__(self, rows: DocumentRows, *, batch: int, rng: Rng, fingerprint: str, device: str = "cpu") -> None:
        super().__init__(len(rows.chosen), batch=batch, length=rows.length, rng=rng, fingerprint=fingerprint)
        self._rows, self._device = rows, device

    def _batch_of(self, windows: list[int]) -> TokenBatch:
        return self._rows.batch(windows, self._device)

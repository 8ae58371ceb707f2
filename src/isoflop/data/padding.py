"""Rows of one document each, filled up with ends of text: how models that fill in learn where answers end.

An autoregressive model stops at the first end of text. One that fills in is given places before it knows how long an
answer is; so the places behind an answer are ends of text, too, and are predicted as the answer is (Nie et al. 2025,
LLaDA, arXiv 2502.09992, section 2.3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

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
        counts = np.ones(len(stream.tokens), np.bool_) if stream.counts is None else stream.counts
        before = np.concatenate([[0], np.cumsum(counts)])
        return cls(stream, np.flatnonzero(before[stops + 1] > before[stream.starts + 1]), length, every)

    @property
    def cut(self) -> int:
        """Documents that are longer than a row."""
        return int((self.stream.stops - self.stream.starts > self.length).sum())

    def batch(self, numbers: Sequence[int], device: str = "cpu") -> TokenBatch:
        """Some rows, by their numbers among those chosen."""
        import torch

        shape, eot = (len(numbers), self.length), self.stream.tokenizer.eot
        inputs, targets = np.full(shape, eot, np.int64), np.full(shape, eot, np.int64)
        counts, documents = np.full(shape, self.every, np.bool_), np.zeros(shape, np.int64)
        for row, document in enumerate(self.chosen[list(numbers)].tolist()):
            start = int(self.stream.starts[document])
            stop = min(int(self.stream.stops[document]), start + self.length)
            place, followed = slice(0, stop - start), slice(start + 1, stop + 1)
            inputs[row, place], targets[row, place] = self.stream.tokens[start:stop], self.stream.tokens[followed]
            counts[row, place] = True if self.stream.counts is None else self.stream.counts[followed]
            documents[row, place] = 1
        batch = as_batch(inputs, targets, self.stream.tokenizer.byte_lengths, device, counts)
        if self.every:
            return batch
        return replace(batch, columns={"documents": torch.from_numpy(documents).to(batch.inputs.device)})


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

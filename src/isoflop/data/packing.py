"""Packing: whole documents in windows, by first fit decreasing, so that few positions are left over.

Documents are taken from the longest to the shortest, and each is put into the first window that has room for it. That
needs at most 11/9 of the fewest windows that any packing needs, and 6/9 of a window (Dosa 2007); with many documents
that are shorter than a window it leaves well below a hundredth of the positions empty.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ..core.contracts import TokenBatch
from ..core.rng import Rng
from .loader import EpochBatches, as_batch
from .streams import Stream
from .tokenizing import Ids

Overlong = Literal["split", "cut"]


@dataclass(frozen=True)
class Packing:
    """Which piece of which document lies in which window.

    Args:
        starts: int64 (pieces,), the place of each piece's first input in the stream; window by window.
        stops: int64 (pieces,), the place of each piece's last target.
        bounds: int64 (windows + 1,), the number of each window's first piece.
        length: positions of a window.
        overlong: documents that are longer than a window.
        dropped: targets that count and lie in no window.

    Example:
        >>> from isoflop.data.tokenizers.bytes import Bytes
        >>> documents = Stream(np.array([256, 1, 2, 256, 3, 256, 4, 5, 256]), Bytes())  # of 3, 2 and 3 targets
        >>> packing = Packing.of(documents, length=5, overlong="split")
        >>> packing.pieces(0), packing.pieces(1), round(packing.padding, 3)
        ([(0, 3), (3, 5)], [(5, 8)], 0.2)
    """

    starts: Ids
    stops: Ids
    bounds: Ids
    length: int
    overlong: int
    dropped: int

    @classmethod
    def of(cls, stream: Stream, length: int, overlong: Overlong) -> Packing:
        """Pack the documents of a stream.

        Args:
            stream: the documents.
            length: positions of a window.
            overlong: what becomes of a document that is longer: "split" into pieces that do not see each other, all but
                the last one as long as a window, or "cut" after its first ``length`` targets. A piece of which nothing
                is predicted lies in no window.
        """
        starts, stops, longer = stream.starts, stream.stops, int((stream.stops - stream.starts > length).sum())
        before = stream.counted()
        counted = int((before[stops + 1] - before[starts + 1]).sum())
        if overlong == "cut":
            stops = np.minimum(stops, starts + length)
        else:
            parts = -(-(stops - starts) // length)
            offsets = np.arange(parts.sum()) - np.repeat(np.cumsum(parts) - parts, parts)
            starts, ends = np.repeat(starts, parts) + offsets * length, np.repeat(stops, parts)
            stops = np.minimum(ends, starts + length)
        predicted = before[stops + 1] - before[starts + 1]
        starts, stops = starts[predicted > 0], stops[predicted > 0]
        order = np.argsort(starts - stops, kind="stable")  # the longest first
        windows = first_fit((stops - starts)[order].tolist(), length)
        placed = np.argsort(windows, kind="stable")
        bounds = np.searchsorted(np.array(windows, np.int64)[placed], np.arange(max(windows, default=-1) + 2))
        order = order[placed]
        return cls(starts[order], stops[order], bounds, length, longer, counted - int(predicted.sum()))

    @property
    def windows(self) -> int:
        """Number of windows."""
        return len(self.bounds) - 1

    @property
    def padding(self) -> float:
        """Share of all positions in which no document lies."""
        return 1 - int((self.stops - self.starts).sum()) / max(1, self.windows * self.length)

    def pieces(self, window: int) -> list[tuple[int, int]]:
        """Where the pieces of a window start and stop."""
        place = slice(int(self.bounds[window]), int(self.bounds[window + 1]))
        return list(zip(self.starts[place].tolist(), self.stops[place].tolist(), strict=True))


def first_fit(sizes: Sequence[int], room: int) -> list[int]:
    """The window of each of ``sizes`` in turn: the first one, of ``room`` positions, that has as many left.

    Takes time that grows as n log n.
    """
    leaves = 1 << len(sizes).bit_length()
    left, found = [room] * (2 * leaves), list[int]()  # a tree over windows: the most that is left below each node
    for size in sizes:
        node = 1
        while node < leaves:
            node = 2 * node + (left[2 * node] < size)
        found.append(node - leaves)
        left[node] -= size
        while node := node // 2:
            left[node] = max(left[2 * node], left[2 * node + 1])
    return found


class PackedBatches(EpochBatches):
    """An endless stream of batches of packed windows; see ``EpochBatches`` for their order.

    Documents of a window do not see each other (the column ``documents`` numbers them), and positions that are left
    over count nowhere.

    Args:
        stream: the documents.
        packing: which of them lie in which window.
        batch: windows of a batch.
        rng: the stream of the order of windows.
        fingerprint: of the corpus; a position in another one, or in another packing, is refused.
        device: where batches lie.

    Example:
        >>> from isoflop.data.tokenizers.bytes import Bytes
        >>> documents = Stream(np.array([256, 1, 2, 256, 3, 256]), Bytes())
        >>> packing = Packing.of(documents, length=6, overlong="split")
        >>> batch = next(PackedBatches(documents, packing, batch=1, rng=Rng(0), fingerprint=""))
        >>> batch.targets.tolist(), batch.columns["documents"].tolist(), batch.units
        ([[1, 2, 256, 3, 256, 256]], [[1, 1, 1, 2, 2, 0]], 5)
    """

    def __init__(
        self, stream: Stream, packing: Packing, *, batch: int, rng: Rng, fingerprint: str, device: str = "cpu"
    ) -> None:
        super().__init__(packing.windows, batch=batch, length=packing.length, rng=rng, fingerprint=fingerprint)
        self._stream, self._packing, self._device = stream, packing, device

    def _place(self) -> dict[str, Any]:
        return {**super()._place(), "windows": self.windows}

    def _batch_of(self, windows: list[int]) -> TokenBatch:
        pieces = [self._packing.pieces(window) for window in windows]
        inputs, targets, counts, documents = self._stream.rows(pieces, self._packing.length)
        return as_batch(inputs, targets, self._stream.tokenizer.byte_lengths, self._device, counts, documents)

"""From token shards to batches: training windows in a random order that is a function of the position, held-out text.

How documents lie in a stream is said in ``streams.py``. Windows cross the borders of documents. Of a document with a
prompt, the prompt is seen and not predicted: its tokens, as targets, do not count.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from ..core.contracts import TokenBatch, Tokenizer
from ..core.device import Device
from ..core.errors import DataError
from ..core.rng import Rng
from .shards import Tokens
from .streams import Counts
from .tokenizing import Ids, as_prompt, beginning


class EpochBatches(ABC):
    """An endless stream of batches of numbered windows; its position is its whole state.

    Epoch e visits every window once, in the order of the permutation drawn from ``rng.at(e)``; a batch may hold the end
    of one epoch and the beginning of the next.

    Args:
        windows: their number, at least 1.
        batch: windows of a batch.
        length: predicted tokens of a window.
        rng: the stream of the order of windows.
        fingerprint: of what the windows hold; a position in another corpus is refused.
    """

    def __init__(self, windows: int, *, batch: int, length: int, rng: Rng, fingerprint: str) -> None:
        self.windows = windows
        self._batch, self._length, self._rng, self._fingerprint = batch, length, rng, fingerprint
        self._position = 0
        self._order: tuple[int, npt.NDArray[np.int64]] = (-1, np.empty(0, np.int64))

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> TokenBatch:
        first = self._position * self._batch
        self._position += 1
        return self._batch_of([self._window(first + row) for row in range(self._batch)])

    @abstractmethod
    def _batch_of(self, windows: list[int]) -> TokenBatch:
        """The batch of some windows."""

    @property
    def epochs(self) -> float:
        """Passes over the corpus so far."""
        return self._position * self._batch / self.windows

    def state_dict(self) -> dict[str, Any]:
        return {"position": self._position, **self._place()}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Go to a stored position; another corpus, batch or length is a DataError."""
        refuse_changed(state, self._place(), "the position was")
        self._position = int(state["position"])

    def _place(self) -> dict[str, Any]:
        return {"corpus": self._fingerprint, "batch": self._batch, "length": self._length}

    def _window(self, sample: int) -> int:
        epoch, place = divmod(sample, self.windows)
        if self._order[0] != epoch:
            self._order = (epoch, self._rng.at(epoch).permutation(self.windows))
        return int(self._order[1][place])


def refuse_changed(state: Mapping[str, Any], place: Mapping[str, Any], what: str) -> None:
    """DataError if a stored state was in another place.

    Args:
        state: as it was stored.
        place: what must be as it was then, by name.
        what: was stored, with its verb, for the message.
    """
    for name, value in place.items():
        if state.get(name) != value:
            raise DataError(
                f"has changed since {what} stored: {name} was {state.get(name)}, is {value}",
                where="source",
                fix="bring the old text and tokenizer back, or start a new run",
            )


class WindowBatches(EpochBatches):
    """Batches of windows that follow each other in a stream, whatever documents they cross; see ``EpochBatches``.

    Window w of W = (tokens - 1) // length predicts tokens w length + 1 ... (w + 1) length; fewer than ``length`` tokens
    at the end of the shard are in none.

    The order of an epoch is computed, never stored, so a run goes on at any step from one number, and two runs of one
    seed see the same batches whatever their model.

    Args:
        tokens: the stream (n,), as above.
        byte_lengths: UTF-8 bytes of each id (vocab_size,).
        batch: windows of a batch.
        length: predicted tokens of a window.
        rng: the stream of the order of windows and of the batches' draws.
        fingerprint: of the corpus; a position in another corpus is refused.
        device: where batches lie.
        starts: int64, the places at which documents start, ascending; with them, batches number the documents of each
            window in a column.
        remark: why there is not more text, for the error if it is too little.
        counts: bool (n,), the tokens that count where they are targets; None: all.

    Example:
        >>> batches = WindowBatches(np.arange(100), np.ones(100, int), batch=2, length=8, rng=Rng(0), fingerprint="ab")
        >>> batch = next(batches)
        >>> batch.inputs.shape, bool((batch.targets == batch.inputs + 1).all()), batches.state_dict()
        (torch.Size([2, 8]), True, {'position': 1, 'corpus': 'ab', 'batch': 2, 'length': 8})
    """

    def __init__(
        self,
        tokens: Tokens,
        byte_lengths: npt.NDArray[np.int64],
        *,
        batch: int,
        length: int,
        rng: Rng,
        fingerprint: str,
        device: str = "cpu",
        starts: Ids | None = None,
        remark: str = "",
        counts: Counts | None = None,
    ) -> None:
        windows = (len(tokens) - 1) // length
        if windows < 1:
            raise DataError(
                f"has {len(tokens)} training tokens, too few for one window of {length}",
                where="source",
                fix=f"give more text or shorten train.length{remark and f' ({remark})'}",
            )
        super().__init__(windows, batch=batch, length=length, rng=rng, fingerprint=fingerprint)
        self._tokens, self._byte_lengths, self._device = tokens, byte_lengths, device
        self._counts, self._starts = counts, starts

    def _batch_of(self, windows: list[int]) -> TokenBatch:
        firsts = [window * self._length for window in windows]
        places = [slice(first, first + self._length + 1) for first in firsts]
        rows = np.stack([self._tokens[place] for place in places]).astype(np.int64)
        counts = None if self._counts is None else np.stack([self._counts[place][1:] for place in places])
        documents = None
        if self._starts is not None:
            inputs = np.array(firsts)[:, None] + np.arange(self._length)
            documents = np.searchsorted(self._starts, inputs, "right") - np.searchsorted(self._starts, inputs[:, :1])
        return as_batch(rows[:, :-1], rows[:, 1:], self._byte_lengths, self._device, counts, documents)


@dataclass
class HeldOutText:
    """Held-out documents of one domain as one stream; every token but the first end-of-text is predicted once, but for
    those of prompts, which are only seen.

    The end of a document is predicted too: then -log2 p is the length of a code that says where documents end, and no
    model can beat the entropy of the source.

    Attributes:
        tokens: the stream (n,).
        text_bytes: UTF-8 bytes of what is predicted.
        documents: their number.
        counts: bool (n,), the tokens that count where they are targets; None: all.

    Example:
        >>> text = HeldOutText(np.arange(20), np.ones(20, int), text_bytes=19, documents=1)
        >>> text.predicted, [tuple(batch.inputs.shape) for batch in text.windows(length=8, batch=2)]
        (19, [(2, 8), (1, 8)])
    """

    tokens: Tokens
    byte_lengths: npt.NDArray[np.int64]
    text_bytes: int
    documents: int
    device: str = "cpu"
    counts: Counts | None = None

    @property
    def predicted(self) -> int:
        """Tokens that are predicted."""
        return len(self.tokens) - 1 if self.counts is None else int(self.counts[1:].sum())

    def windows(self, length: int, batch: int) -> Iterator[TokenBatch]:
        """Batches of up to ``batch`` windows in order; the last window is filled up and its filling masked out.

        Windows in which nothing is predicted are left out.
        """
        predicted = len(self.tokens) - 1
        for first in range(0, predicted, batch * length):
            count = min(batch * length, predicted - first)
            rows = -(-count // length)
            stream = np.zeros(rows * length + 1, np.int64)
            stream[: count + 1] = self.tokens[first : first + count + 1]
            shape, counts = (rows, length), np.arange(rows * length) < count
            if self.counts is not None:
                counts[:count] &= self.counts[first + 1 : first + count + 1]
            counts = counts.reshape(shape)
            kept = counts.any(-1)
            inputs, targets = stream[:-1].reshape(shape)[kept], stream[1:].reshape(shape)[kept]
            if kept.any():
                yield as_batch(inputs, targets, self.byte_lengths, self.device, counts[kept])


def heldout_of(text: str, tokenizer: Tokenizer, device: str = "cpu") -> HeldOutText:
    """Any text as one held-out document.

    Args:
        text: not empty.
        tokenizer: that of the model which is to be measured.
        device: where batches lie.

    Example, with ``ctx`` a context that reads bytes:
        >>> text = heldout_of("seven b", ctx.tokenizer.build(iter(())))
        >>> text.text_bytes, text.documents
        (7, 1)
    """
    before = beginning(tokenizer)
    ids = np.append(as_prompt(tokenizer, text), tokenizer.eot)
    counts = np.arange(len(ids)) >= len(before) if before else None
    return HeldOutText(ids, tokenizer.byte_lengths, len(text.encode()), documents=1, device=device, counts=counts)


def as_batch(
    inputs: npt.NDArray[np.int64],
    targets: npt.NDArray[np.int64],
    byte_lengths: npt.NDArray[np.int64],
    device: str = "cpu",
    counts: npt.NDArray[np.bool_] | None = None,
    documents: Ids | None = None,
) -> TokenBatch:
    """A batch of (batch, length) ids; ``counts`` marks the targets that count (None: all).

    Args:
        inputs: ids (batch, length).
        targets: ids (batch, length).
        byte_lengths: UTF-8 bytes of each id (vocab_size,).
        device: where it lies.
        counts: bool (batch, length), the targets that count; None: all.
        documents: (batch, length), the number of each input's document, for a column; None: there is none.

    Example:
        >>> batch = as_batch(np.array([[1, 2]]), np.array([[2, 3]]), np.array([0, 1, 1, 2]))
        >>> batch.tokens, batch.text_bytes
        (2, 3)
    """
    import torch

    sizes = byte_lengths[targets]
    partial = counts is not None and not counts.all()

    def moved(array: npt.NDArray[Any]) -> torch.Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        if Device.of(device).is_cuda:  # from pinned memory the copy waits for nothing
            return tensor.pin_memory().to(device, non_blocking=True)
        return tensor.to(device)

    return TokenBatch(
        inputs=moved(inputs),
        targets=moved(targets),
        text_bytes=int(sizes[counts].sum() if partial else sizes.sum()),
        mask=moved(counts) if partial and counts is not None else None,
        columns={} if documents is None else {"documents": moved(documents)},
    )

"""A shard as documents: where each lies in the stream, what of it counts, and the text that it stands for.

There are two layouts. Of a tokenizer that puts nothing before a text, the stream is ``eot d1 eot d2 ... dn eot``: an
end-of-text token predicts the first token of a document and is itself predicted after the last. Where a document has a
beginning of its own (``<s>``, a chat template's first tokens), documents lie end to end, a file says where each starts,
and no document predicts the first token of the next where held-out text is measured.

What the tokens alone do not tell lies in files beside the shard: which of them count, where documents start, and, where
a document's tokens do not give back its text, the texts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from ..core.contracts import Tokenizer
from ..core.files import disk_errors
from ..core.reading import opened
from .shards import Tokens, open_tokens, token_type
from .tokenizing import Ids, beginning

Counts = npt.NDArray[np.bool_]
"""Whether each token of a stream counts where it is a target."""
COUNTS, STARTS, TEXTS = "counts", "starts", "texts.jsonl"
"""Files beside a shard ``NAME.bin``: ``NAME.bin.counts`` and so on; each is there only if it says something."""


@dataclass(frozen=True, slots=True)
class Written:
    """A document as its tokens.

    Args:
        ids: all of them, the end of text included, and what comes before every text.
        runs: lengths of runs of ids, the first not predicted, the second predicted, and so on in turn.
        prompt: the text that is not predicted.
        text: the text that is.
        apart: ids that are not predicted and ids that are give back those two, each by itself.

    Example:
        >>> written = Written(np.asarray([72, 105, 256]), runs=(1, 2), prompt="H", text="i")
        >>> written.predicted
        2
    """

    ids: Ids
    runs: tuple[int, ...]
    prompt: str
    text: str
    apart: bool = True

    @property
    def predicted(self) -> int:
        """Ids that are predicted."""
        return sum(self.runs[1::2])


class StreamWriter:
    """Writes the shard of documents that come one by one, and those files beside it that it needs.

    Args:
        path: of the shard.
        tokenizer: whose ids they are.
        own_starts: documents have beginnings of their own (see the module).
        files: which of ``COUNTS`` and ``TEXTS`` may be needed.

    Example:
        >>> from isoflop.data.tokenizers.bytes import Bytes
        >>> writer = StreamWriter(Path("train.bin"), Bytes(), own_starts=False, files=())
        >>> amounts = writer.write(iter([Written(np.asarray([72, 105, 256]), runs=(0, 3), prompt="", text="Hi")]))
        >>> Path("train.bin").stat().st_size
        8
    """

    def __init__(self, path: Path, tokenizer: Tokenizer, *, own_starts: bool, files: Iterable[str]) -> None:
        self._path, self._type, self._own_starts = path, token_type(tokenizer.vocab_size), own_starts
        self._first = [] if own_starts else [tokenizer.eot]
        self._beside = {kind: beside(path, kind) for kind in files}
        self._starts, self._masked, self._apart = [0], False, True

    def write(self, documents: Iterator[Written]) -> None:
        """Write all of them; may be called once."""
        with disk_errors(self._path), ExitStack() as stack:
            tokens: IO[bytes] = stack.enter_context(self._path.open("wb"))
            files = {kind: stack.enter_context(path.open("wb")) for kind, path in self._beside.items()}
            tokens.write(np.array(self._first, self._type).tobytes())
            if COUNTS in files:
                files[COUNTS].write(b"\x01" * len(self._first))
            for document in documents:
                tokens.write(document.ids.astype(self._type).tobytes())
                self._starts.append(self._starts[-1] + len(document.ids))
                self._masked |= any(document.runs[::2])
                self._apart &= document.apart
                if COUNTS in files:
                    files[COUNTS].writelines(b"\0\1"[i % 2 : i % 2 + 1] * run for i, run in enumerate(document.runs))
                if TEXTS in files:
                    files[TEXTS].write(f"{json.dumps([document.prompt, document.text])}\n".encode())
        for kind, needed in ((COUNTS, self._masked), (TEXTS, not self._apart)):
            if kind in self._beside and not needed:
                self._beside[kind].unlink()
        if self._own_starts:
            with disk_errors(self._path):
                beside(self._path, STARTS).write_bytes(np.array(self._starts, "<i8").tobytes())


@dataclass(frozen=True)
class Stream:
    """The documents of a shard.

    Args:
        tokens: ids (n,).
        tokenizer: whose they are.
        counts: bool (n,), the tokens that count where they are targets; None: all.
        own_starts: int64 (documents + 1,), where each document starts, and where the last ends; None: an end of text
            before each of them is its first input.
        texts: the file of their texts, where the tokens do not give them back.

    Example:
        >>> from isoflop.data.tokenizers.bytes import Bytes
        >>> stream = Stream(np.asarray([256, 72, 105, 256, 72, 256]), Bytes())
        >>> stream.sizes.tolist()
        [2, 1]
    """

    tokens: Tokens
    tokenizer: Tokenizer
    counts: Counts | None = None
    own_starts: Ids | None = None
    texts: Path | None = None

    @classmethod
    def open(cls, path: Path, tokenizer: Tokenizer) -> Stream:
        """The stream of a shard that ``StreamWriter`` wrote; memory-mapped."""
        counts, starts, texts = (beside(path, kind) for kind in (COUNTS, STARTS, TEXTS))
        return cls(
            open_tokens(path, token_type(tokenizer.vocab_size)),
            tokenizer,
            open_tokens(counts, np.dtype(np.bool_)) if counts.exists() else None,
            open_tokens(starts, np.dtype("<i8")) if starts.exists() else None,
            texts if texts.exists() else None,
        )

    @cached_property
    def starts(self) -> Ids:
        """int64 (documents,): the place of each document's first input."""
        return self._borders[:-1]

    @cached_property
    def stops(self) -> Ids:
        """int64 (documents,): the place of each document's last token, which ends it and is never its input."""
        return self._borders[1:] - (self.own_starts is not None)

    @cached_property
    def sizes(self) -> Ids:
        """int64 (documents,): bytes of what is predicted of each document: of its text, or as the tokenizer counts."""
        if self.texts is not None:
            return np.array([len(text.encode()) for _, text in self.pairs()], np.int64)
        lengths = self.tokenizer.byte_lengths[self.tokens]
        counted = lengths if self.counts is None else lengths * self.counts
        return np.add.reduceat(counted, self.starts).astype(np.int64)

    def counted(self) -> Ids:
        """int64 (n + 1,): tokens that count before each place."""
        counts = np.ones(len(self.tokens), np.bool_) if self.counts is None else self.counts
        return np.concatenate([[0], np.cumsum(counts)])

    def rows(self, pieces: Sequence[Sequence[tuple[int, int]]], length: int) -> tuple[Ids, Ids, Counts, Ids]:
        """Pieces of documents laid out in rows, which ends of text fill up.

        Args:
            pieces: of each row, the place of each piece's first input and of its last target; together no more than
                ``length`` targets.
            length: of a row.

        Returns:
            Inputs, targets, which of these count, and the number of each one's piece, from 1, or 0 where there is
            none: all (rows, length).
        """
        shape = (len(pieces), length)
        inputs, targets = (np.full(shape, self.tokenizer.eot, np.int64) for _ in range(2))
        counts, numbers = np.zeros(shape, np.bool_), np.zeros(shape, np.int64)
        for row, each in enumerate(pieces):
            done = 0
            for number, (start, stop) in enumerate(each, 1):
                place = slice(done, done := done + stop - start)
                inputs[row, place] = self.tokens[start:stop]
                targets[row, place] = self.tokens[start + 1 : stop + 1]
                counts[row, place] = True if self.counts is None else self.counts[start + 1 : stop + 1]
                numbers[row, place] = number
        return inputs, targets, counts, numbers

    def pairs(self, chosen: Sequence[int] | None = None) -> Iterator[tuple[str, str]]:
        """Prompt ("" where there is none) and what follows it, of every document or of the chosen ones, ascending."""
        wanted = range(len(self.starts)) if chosen is None else chosen
        if self.texts is not None:
            with opened(self.texts) as file:
                lines = enumerate(file)
                for i in wanted:
                    prompt, text = json.loads(next(line for number, line in lines if number == i))
                    yield prompt, text
            return
        for i in wanted:
            place = slice(int(self.starts[i]) + (self.own_starts is None), int(self.stops[i]) + 1)
            ids = self.tokens[place]
            border = 0 if self.counts is None else int((~self.counts[place]).sum())
            yield self.tokenizer.decode(ids[:border].tolist()), self.tokenizer.decode(ids[border:].tolist())

    def evaluated(self, chosen: Sequence[int]) -> Stream:
        """A stream of the chosen documents only, in which no document predicts the beginning of the next one."""
        if self.own_starts is None:
            if len(chosen) == len(self.starts):
                return self
            pieces = [np.array([0]), *(np.arange(self.starts[i] + 1, self.stops[i] + 1) for i in chosen)]
            kept = np.concatenate(pieces)
            counts = None if self.counts is None else self.counts[kept]
            return replace(self, tokens=self.tokens[kept], counts=counts, texts=None)
        pieces = [np.arange(self.starts[i], self.stops[i] + 1) for i in chosen]
        kept = np.concatenate(pieces)
        counts = np.ones(len(kept), bool) if self.counts is None else np.array(self.counts[kept])
        borders = np.cumsum([0, *map(len, pieces)])
        for place in range(max(1, len(beginning(self.tokenizer)))):
            counts[borders[:-1] + place] = False
        return replace(self, tokens=self.tokens[kept], counts=counts, own_starts=borders, texts=None)

    @cached_property
    def _borders(self) -> Ids:
        if self.own_starts is not None:
            return self.own_starts
        return np.flatnonzero(self.tokens == self.tokenizer.eot)


def beside(path: Path, kind: str) -> Path:
    """A file beside a shard, e.g. ``train.bin.counts``."""
    return path.with_name(f"{path.name}.{kind}")

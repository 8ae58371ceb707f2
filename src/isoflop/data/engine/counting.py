"""Tokens of every document as training would see it, stored beside the input: what a budget in tokens is filled by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ...core.contracts import Tokenizer, TokenizerPart
from ...core.tokenizer import ReadsFiles
from ..tokenizing import begun, encode_many
from .inputs import Unit, blocks
from .jobs import Counts, Desk, JobSettings, work_through, write_array

TOKENS, COUNTED = "tokens", "counted"
"""Folders of the counts by document, and of what says that a unit is done."""


@dataclass(frozen=True)
class Counting:
    """The work on a unit: tokens of each document, what comes before and after it in training included.

    Args:
        tokenizer: live.

    Example:
        >>> from isoflop.data.tokenizers.bytes import Bytes
        >>> Counting(Bytes()).of(["four", ""]).tolist()
        [5, 1]
    """

    tokenizer: Tokenizer

    def __call__(self, unit: Unit, desk: Desk) -> Counts:
        counts, found = Counts(), [np.empty(0, np.int64)]
        for block in blocks(desk.texts(unit, counts)):
            found.append(self.of([row.text for row in block]))
        write_array(desk.path(TOKENS, unit.number, "npy"), np.concatenate(found))
        return counts

    def of(self, texts: Sequence[str]) -> npt.NDArray[np.int64]:
        """int64 (texts,): tokens of each."""
        sizes = list[int]()
        for ids in encode_many(self.tokenizer, texts):
            whole = begun(self.tokenizer, ids)
            ended = len(whole) > 0 and whole[-1] == self.tokenizer.eot
            sizes.append(len(whole) + (not ended))
        return np.array(sizes, np.int64)


def token_counts(units: Sequence[Unit], tokenizer: Tokenizer, settings: JobSettings) -> npt.NDArray[np.int64]:
    """int64 (documents,): tokens of every document of the input, counted once.

    Args:
        units: of the input.
        tokenizer: live.
        settings: where and how.
    """
    work_through(units, Counting(tokenizer), settings, COUNTED)
    return np.concatenate([np.load(settings.desk.path(TOKENS, unit.number, "npy")) for unit in units])


def identity_of(part: TokenizerPart) -> dict[str, Any]:
    """What a tokenizer is: its part, its hyper-parameters, and a digest of the files that it is read from."""
    read = {"inputs": part.inputs()} if isinstance(part, ReadsFiles) else {}
    return {**part.header(), **part.model_dump(mode="json"), **read}

"""A corpus: documents that were split, tokenised and kept in the cache, read back as memory-mapped shards."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import NonNegativeInt

from ..core.context import Context
from ..core.contracts import TOKENIZER, LoadsTokenizer, TokenizerPart
from ..core.digests import digest, document_hash
from ..core.documents import Frozen
from .loader import HeldOutText, WindowBatches
from .shards import Manifest, Tokens, open_tokens, token_type, unseal


class Amount(Frozen):
    """How much text."""

    documents: NonNegativeInt
    text_bytes: NonNegativeInt
    tokens: NonNegativeInt
    """Tokens of the documents and one end of text for each."""


class CorpusManifest(Manifest):
    """What a corpus directory says of itself; domains are in alphabetical order, as their shards."""

    fingerprint: str
    train: dict[str, Amount]
    heldout: dict[str, Amount]
    exact_duplicates: NonNegativeInt
    near_duplicates: NonNegativeInt


class Corpus:
    """A live source over token shards: see ``core.contracts.Source``.

    Attributes:
        fingerprint: SHA-256 over every document's hash, domain and side of the split, and the tokenizer.
        tokenizer: the live tokenizer.
        directory: where the shards lie.
        entropy_per_byte: the exact entropy of the text in bits a byte, where it is known.
    """

    def __init__(
        self,
        directory: Path,
        tokenizer: TokenizerPart,
        ctx: Context,
        *,
        heldout_bytes: int = 0,
        entropy_per_byte: float | None = None,
    ) -> None:
        self.directory, self.entropy_per_byte = directory, entropy_per_byte
        self._manifest = unseal(directory, CorpusManifest)
        self.fingerprint = self._manifest.fingerprint
        if isinstance(tokenizer, LoadsTokenizer):
            self.tokenizer = tokenizer.load(directory / TOKENIZER)
        else:
            self.tokenizer = tokenizer.build(iter(()))
        self._heldout_bytes, self._device = heldout_bytes, ctx.device
        self._heldout: dict[str, HeldOutText] | None = None

    def batches(self, ctx: Context) -> WindowBatches:
        """Training batches of ``ctx.batch`` windows of ``ctx.length`` tokens, in the order of ctx.rng("data")."""
        return WindowBatches(
            self._shard("train"),
            self.tokenizer.byte_lengths,
            batch=ctx.batch,
            length=ctx.length,
            rng=ctx.rng("data"),
            fingerprint=self.fingerprint,
            device=ctx.device,
            separator=self.tokenizer.eot if ctx.isolate_documents else None,
            remark=self.left_out,
        )

    def heldout(self) -> Mapping[str, HeldOutText]:
        """Held-out text by domain: whole documents in the corpus' order that fit into ``heldout_bytes`` (0: all).

        A document that no longer fits is passed over; where none fits, the smallest one is taken.
        """
        if self._heldout is None:
            self._heldout = {
                domain: self._evaluated(self._shard(f"heldout-{number}"))
                for number, domain in enumerate(self._manifest.heldout)
            }
        return self._heldout

    def train_text(self) -> Iterator[str]:
        """Every training document, in the order of the stream."""
        return self._texts(self._shard("train"))

    def heldout_text(self) -> Iterator[str]:
        """Every document that ``heldout`` evaluates, domain by domain."""
        return itertools.chain.from_iterable(self._texts(part.tokens) for part in self.heldout().values())

    def heldout_digest(self) -> str:
        """SHA-256 over the text that ``heldout`` evaluates, by domain: the same for every tokenizer."""
        parts = self.heldout().items()
        return digest({domain: [document_hash(text).hex() for text in self._texts(p.tokens)] for domain, p in parts})

    def describe(self) -> dict[str, Any]:
        """JSON for the report: fingerprint, documents, bytes and tokens by split and domain, duplicates removed."""
        sides = {"train": self._manifest.train, "heldout": self._manifest.heldout}
        result: dict[str, Any] = {
            side: {domain: amount.model_dump() for domain, amount in amounts.items()} for side, amounts in sides.items()
        }
        result["evaluated"] = {
            domain: {"documents": part.documents, "text_bytes": part.text_bytes, "tokens": len(part.tokens) - 1}
            for domain, part in self.heldout().items()
        }
        amounts = [amount for side in sides.values() for amount in side.values()]
        return {
            "fingerprint": self.fingerprint,
            "documents": sum(amount.documents for amount in amounts),
            "text_bytes": sum(amount.text_bytes for amount in amounts),
            "tokens": sum(amount.tokens for amount in amounts),
            "vocab_size": self.tokenizer.vocab_size,
            **result,
            "exact_duplicates_removed": self._manifest.exact_duplicates,
            "near_duplicates_removed": self._manifest.near_duplicates,
            "left_out": self.left_out or None,
            "entropy_per_byte": self.entropy_per_byte,
        }

    @property
    def left_out(self) -> str:
        """What deduplication left out, as a sentence for the user; "" if nothing."""
        sides = (self._manifest.train, self._manifest.heldout)
        kept = sum(amount.documents for side in sides for amount in side.values())
        return left_out(kept, self._manifest.exact_duplicates, self._manifest.near_duplicates)

    def _shard(self, name: str) -> Tokens:
        return open_tokens(self.directory / f"{name}.bin", token_type(self.tokenizer.vocab_size))

    def _texts(self, tokens: Tokens) -> Iterator[str]:
        ends = np.flatnonzero(tokens == self.tokenizer.eot)
        for start, end in itertools.pairwise(ends.tolist()):
            yield self.tokenizer.decode(tokens[start + 1 : end].tolist())

    def _evaluated(self, tokens: Tokens) -> HeldOutText:
        ends = np.flatnonzero(tokens == self.tokenizer.eot)
        sizes = np.add.reduceat(self.tokenizer.byte_lengths[tokens], ends[:-1])
        if self._heldout_bytes and sizes.sum() > self._heldout_bytes:
            chosen, left = [], self._heldout_bytes
            for index, size in enumerate(sizes.tolist()):
                if size <= left:
                    chosen.append(index)
                    left -= size
            chosen = chosen or [int(sizes.argmin())]
            tokens = np.concatenate([tokens[:1], *(tokens[ends[i] + 1 : ends[i + 1] + 1] for i in chosen)])
        text_bytes = sum(len(text.encode()) for text in self._texts(tokens))
        documents = int((tokens == self.tokenizer.eot).sum()) - 1
        return HeldOutText(tokens, self.tokenizer.byte_lengths, text_bytes, documents, self._device)


def left_out(kept: int, exact: int, near: int, example: str = "") -> str:
    """What deduplication left out of how many documents, as a sentence for the user; "" if nothing."""
    dropped = exact + near
    if not dropped:
        return ""
    switch = "none or exact keeps" if near else "none keeps"
    return (
        f"{dropped:,} of {kept + dropped:,} documents are left out as duplicates ({exact:,} exact, {near:,} near"
        f"{example}): source.deduplicate={switch} them"
    )

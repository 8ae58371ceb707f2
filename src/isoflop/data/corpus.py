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
from .loader import Counts, HeldOutText, WindowBatches
from .shards import Manifest, Tokens, open_tokens, token_type, unseal


class Amount(Frozen):
    """How much text."""

    documents: NonNegativeInt
    text_bytes: NonNegativeInt
    """UTF-8 bytes that are predicted: of the documents without their prompts."""
    tokens: NonNegativeInt
    """Tokens that are predicted: those and one end of text for each document."""
    prompt_bytes: NonNegativeInt = 0
    """UTF-8 bytes of prompts, which are seen and not predicted."""
    prompt_tokens: NonNegativeInt = 0
    """Their tokens."""


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
            counts=self._counts("train"),
        )

    def heldout(self) -> Mapping[str, HeldOutText]:
        """Held-out text by domain: whole documents in the corpus' order that fit into ``heldout_bytes`` (0: all).

        A document that no longer fits is passed over; where none fits, the smallest one is taken. Of a document with a
        prompt only what follows it is evaluated, and fills that room.
        """
        if self._heldout is None:
            self._heldout = {
                domain: self._evaluated(self._shard(f"heldout-{number}"), self._counts(f"heldout-{number}"))
                for number, domain in enumerate(self._manifest.heldout)
            }
        return self._heldout

    def train_text(self) -> Iterator[str]:
        """Every training document, its prompt included, in the order of the stream."""
        return (prompt + text for prompt, text in self._texts(self._shard("train"), self._counts("train")))

    def heldout_text(self) -> Iterator[str]:
        """Every document that ``heldout`` evaluates, without its prompt, domain by domain."""
        parts = self.heldout().values()
        return (text for part in parts for _, text in self._texts(part.tokens, part.counts))

    def heldout_digest(self) -> str:
        """SHA-256 over the text that ``heldout`` evaluates and its prompts, by domain: the same for every tokenizer."""
        parts = self.heldout().items()
        return digest({domain: [hash_of(*text) for text in self._texts(p.tokens, p.counts)] for domain, p in parts})

    def describe(self) -> dict[str, Any]:
        """JSON for the report: fingerprint, documents, bytes and tokens by split and domain, duplicates removed."""
        sides = {"train": self._manifest.train, "heldout": self._manifest.heldout}
        result: dict[str, Any] = {
            side: {domain: amount.model_dump(exclude_defaults=True) for domain, amount in amounts.items()}
            for side, amounts in sides.items()
        }
        result["evaluated"] = {
            domain: {"documents": part.documents, "text_bytes": part.text_bytes, "tokens": part.predicted}
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

    def _counts(self, shard: str) -> Counts | None:
        """The tokens of a shard that count where they are targets; None: all, it holds no prompt."""
        name = counts_of(shard)
        return open_tokens(self.directory / name, np.dtype(np.bool_)) if name in self._manifest.files else None

    def _texts(self, tokens: Tokens, counts: Counts | None) -> Iterator[tuple[str, str]]:
        """Prompt ("" where there is none) and what follows it, of every document."""
        ends = np.flatnonzero(tokens == self.tokenizer.eot)
        for start, end in itertools.pairwise(ends.tolist()):
            ids = tokens[start + 1 : end]
            border = 0 if counts is None else int((~counts[start + 1 : end]).sum())
            yield self.tokenizer.decode(ids[:border].tolist()), self.tokenizer.decode(ids[border:].tolist())

    def _evaluated(self, tokens: Tokens, counts: Counts | None) -> HeldOutText:
        ends = np.flatnonzero(tokens == self.tokenizer.eot)
        lengths = self.tokenizer.byte_lengths[tokens]
        sizes = np.add.reduceat(lengths if counts is None else lengths * counts, ends[:-1])
        if self._heldout_bytes and sizes.sum() > self._heldout_bytes:
            chosen, left = [], self._heldout_bytes
            for index, size in enumerate(sizes.tolist()):
                if size <= left:
                    chosen.append(index)
                    left -= size
            chosen = chosen or [int(sizes.argmin())]
            kept = np.concatenate([[0], *(np.arange(ends[i] + 1, ends[i + 1] + 1) for i in chosen)])
            tokens, counts = tokens[kept], None if counts is None else counts[kept]
        text_bytes = sum(len(text.encode()) for _, text in self._texts(tokens, counts))
        documents = int((tokens == self.tokenizer.eot).sum()) - 1
        return HeldOutText(tokens, self.tokenizer.byte_lengths, text_bytes, documents, self._device, counts)


def counts_of(shard: str) -> str:
    """The file that says which tokens of a shard count where they are targets; it is there if any does not."""
    return f"{shard}.counts"


def hash_of(prompt: str, text: str) -> str:
    """A hash of a document's text; that of its prompt comes first if it has one."""
    known = document_hash(text).hex()
    return f"{document_hash(prompt).hex()}+{known}" if prompt else known


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

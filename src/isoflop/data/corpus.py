"""A corpus: documents that were split, tokenised and kept in the cache, read back as memory-mapped shards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import NonNegativeInt

from ..core.context import Context
from ..core.contracts import TOKENIZER, LoadsTokenizer, TokenizerPart
from ..core.digests import digest, document_hash
from ..core.documents import Frozen
from .loader import HeldOutText, WindowBatches
from .shards import Manifest, unseal
from .streams import Stream


class Amount(Frozen):
    """How much text.

    Example:
        >>> Amount(documents=2, text_bytes=100, tokens=30).tokens
        30
    """

    documents: NonNegativeInt
    text_bytes: NonNegativeInt
    """UTF-8 bytes that are predicted: of the documents without their prompts."""
    tokens: NonNegativeInt
    """Tokens that are predicted: those and one end of text for each document."""
    prompt_bytes: NonNegativeInt = 0
    """UTF-8 bytes of prompts, which are seen and not predicted."""
    prompt_tokens: NonNegativeInt = 0
    """Their tokens, and those that come before every text."""
    altered: NonNegativeInt = 0
    """Documents whose tokens stand for another text than theirs."""


class CorpusManifest(Manifest):
    """What a corpus directory says of itself; domains are in alphabetical order, as their shards.

    Example:
        >>> one = Amount(documents=1, text_bytes=40, tokens=12)
        >>> known = dict(fingerprint="ab", train={"text": one}, heldout={}, exact_duplicates=0, near_duplicates=0)
        >>> CorpusManifest(files={"train.bin": "cd"}, **known).train["text"].tokens
        12
    """

    fingerprint: str
    train: dict[str, Amount]
    heldout: dict[str, Amount]
    exact_duplicates: NonNegativeInt
    near_duplicates: NonNegativeInt


class Corpus:
    """A live source over token shards: see ``core.contracts.Source``.

    What a source of text is once it was read: tokens on disk, split and counted. ``prepare`` makes it, training reads
    batches of it, metrics its held-out text.

    Attributes:
        fingerprint: SHA-256 over every document's hash, domain and side of the split, and the tokenizer.
        tokenizer: the live tokenizer.
        directory: where the shards lie.
        entropy_per_byte: the exact entropy of the text in bits a byte, where it is known.

    Example, with ``ctx`` a context that reads bytes:
        >>> from isoflop.data.making import prepare
        >>> from isoflop.data.document import Document
        >>> documents = [Document(f"text number {i}", "text", str(i), f"{i:032x}") for i in range(40)]
        >>> corpus = prepare(documents, ctx.tokenizer, ctx, deduplicate="exact")
        >>> next(corpus.batches(ctx)).inputs.shape, list(corpus.heldout())
        (torch.Size([2, 16]), ['text'])
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
        stream = self.stream("train")
        return WindowBatches(
            stream.tokens,
            self.tokenizer.byte_lengths,
            batch=ctx.batch,
            length=ctx.length,
            rng=ctx.rng("data"),
            fingerprint=self.fingerprint,
            device=ctx.device,
            starts=stream.starts if ctx.isolate_documents else None,
            remark=self.left_out,
            counts=stream.counts,
        )

    def heldout(self) -> Mapping[str, HeldOutText]:
        """Held-out text by domain: whole documents in the corpus' order that fit into ``heldout_bytes`` (0: all).

        A document that no longer fits is passed over; where none fits, the smallest one is taken. Of a document with a
        prompt only what follows it is evaluated, and fills that room.
        """
        if self._heldout is None:
            self._heldout = {domain: self._evaluated(domain) for domain in self._manifest.heldout}
        return self._heldout

    def train_text(self) -> Iterator[str]:
        """Every training document, its prompt included, in the order of the stream."""
        return (prompt + text for prompt, text in self.stream("train").pairs())

    def heldout_text(self) -> Iterator[str]:
        """Every document that ``heldout`` evaluates, without its prompt, domain by domain."""
        return (text for domain in self.heldout() for _, text in self._heldout_pairs(domain))

    def heldout_digest(self) -> str:
        """SHA-256 over the text that ``heldout`` evaluates and its prompts, by domain: the same for every tokenizer."""
        return digest({domain: [hash_of(*pair) for pair in self._heldout_pairs(domain)] for domain in self.heldout()})

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
            "remarks": self.remarks or None,
            "entropy_per_byte": self.entropy_per_byte,
        }

    @property
    def left_out(self) -> str:
        """What deduplication left out, as a sentence for the user; "" if nothing."""
        sides = (self._manifest.train, self._manifest.heldout)
        kept = sum(amount.documents for side in sides for amount in side.values())
        return left_out(kept, self._manifest.exact_duplicates, self._manifest.near_duplicates)

    @property
    def remarks(self) -> list[str]:
        """What a user should know of how the tokens stand for the text, as sentences."""
        sides = (self._manifest.train, self._manifest.heldout)
        amounts = [amount for side in sides for amount in side.values()]
        altered, documents = sum(each.altered for each in amounts), sum(each.documents for each in amounts)
        said = (
            f"the tokens of {altered:,} of {documents:,} documents stand for another text than theirs: bits per byte "
            "are over the text's own bytes, and compare only with those of the same tokenizer"
        )
        return [*([said] if altered else []), *getattr(self.tokenizer, "remarks", ())]

    def stream(self, side: str, domain: str = "") -> Stream:
        """The documents of a shard: ``stream("train")``, or ``stream("heldout", "a domain")``."""
        name = side if side == "train" else f"{side}-{list(self._manifest.heldout).index(domain)}"
        return Stream.open(self.directory / f"{name}.bin", self.tokenizer)

    def _heldout_pairs(self, domain: str) -> Iterator[tuple[str, str]]:
        stream = self.stream("heldout", domain)
        return stream.pairs(self._chosen(stream))

    def _chosen(self, stream: Stream) -> list[int]:
        """The documents that are evaluated."""
        sizes = stream.sizes
        if not self._heldout_bytes or sizes.sum() <= self._heldout_bytes:
            return list(range(len(sizes)))
        chosen, left = [], self._heldout_bytes
        for index, size in enumerate(sizes.tolist()):
            if size <= left:
                chosen.append(index)
                left -= size
        return chosen or [int(sizes.argmin())]

    def _evaluated(self, domain: str) -> HeldOutText:
        stream = self.stream("heldout", domain)
        chosen = self._chosen(stream)
        text_bytes = sum(len(text.encode()) for _, text in stream.pairs(chosen))
        kept = stream.evaluated(chosen)
        return HeldOutText(kept.tokens, self.tokenizer.byte_lengths, text_bytes, len(chosen), self._device, kept.counts)


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

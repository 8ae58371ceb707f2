"""A corpus: documents without duplicates, split, tokenised, kept in the cache and read back as memory-mapped shards.

A corpus is named by a key over whatever it is made from (the source part, a digest of its raw input, the tokenizer
part), so that a second run finds it without reading a document. Its directory appears by one rename; processes that
want the same corpus at once make it once.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import itertools
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import NonNegativeInt

from ..core.context import Context
from ..core.contracts import TOKENIZER, LoadsTokenizer, Storable, Tokenizer, TokenizerPart
from ..core.digests import digest, digest_file, document_hash
from ..core.documents import Frozen
from ..core.errors import DataError
from ..core.files import PARTIAL, disk_errors, publish_directory
from ..core.tokenizer import GivenTokenizer, ReadsFiles
from .dedup import Deduplicate, Distinct, distinct
from .document import Document, utf8
from .loader import HeldOutText, WindowBatches
from .shards import Manifest, Tokens, open_tokens, seal, token_type, unseal, write_tokens
from .split import held_out_groups
from .tokenizing import Ids, encode_many

FORMAT = 3
"""Part of every key: rises when the same input would give another corpus."""

_CHUNK = 4_000_000  # characters tokenised at once


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
        return _left_out(kept, self._manifest.exact_duplicates, self._manifest.near_duplicates)

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


def prepare(
    documents: Iterable[Document],
    tokenizer: TokenizerPart,
    ctx: Context,
    *,
    inputs: Any = None,
    deduplicate: Deduplicate = "near",
    heldout_share: float = 0.05,
    heldout_bytes: int = 0,
    entropy_per_byte: float | None = None,
) -> Corpus:
    """The corpus of ``documents``, from the cache if it is there.

    Args:
        documents: read only if the corpus must be made; all their text is held in memory meanwhile.
        inputs: JSON that changes whenever the documents do (digests of files, not their paths); None: the documents
            are read and hashed for it.
        deduplicate: which duplicates are left out: "near" ones as well as exact ones, "exact" ones, None. Of several,
            a hash of their content decides which one stays.
        heldout_share: share of groups that is held out. heldout_bytes: see ``Corpus.heldout``.

    Raises:
        DataError: no documents, nothing to hold out, text that cannot be encoded, a damaged shard in the cache.
    """
    if inputs is None:
        documents = list(documents)
        inputs = [[document_hash(d.text).hex(), d.domain, d.group] for d in documents]
    made_from = {
        "format": FORMAT,
        "inputs": inputs,
        "tokenizer": _identity(tokenizer),
        "deduplicate": deduplicate,
        "heldout_share": heldout_share,
    }
    if isinstance(tokenizer, GivenTokenizer):  # its part alone would train another one on this text
        made_from["given"] = tokenizer.digest
    key = digest(made_from)[:32]
    directory = ctx.cache / "corpora" / key
    if not directory.exists():
        with _alone(directory):
            if not directory.exists():  # another process may have made it while we waited
                _make(directory, documents, tokenizer, ctx, deduplicate, heldout_share)
    return Corpus(directory, tokenizer, ctx, heldout_bytes=heldout_bytes, entropy_per_byte=entropy_per_byte)


def _make(
    directory: Path,
    documents: Iterable[Document],
    part: TokenizerPart,
    ctx: Context,
    deduplicate: Deduplicate,
    share: float,
) -> None:
    everything = sorted(documents, key=_order)
    if not everything:
        raise DataError("gives no documents", where="source", fix="check its paths and keys")
    for document in everything:
        utf8(document.text, document.origin)
    found = distinct([document.text for document in everything], deduplicate)
    remark = _left_out(len(found.kept), len(found.exact), len(found.near), _example(found, everything))
    everything = [everything[index] for index in found.kept]
    held = held_out_groups(everything, share, remark)
    train = [document for document in everything if document.group not in held]
    heldout = [document for document in everything if document.group in held]
    with publish_directory(directory) as target:
        tokenizer = part.build(document.text for document in train)
        saved = target / TOKENIZER
        if isinstance(tokenizer, Storable):
            tokenizer.save(saved)
        learned = saved.exists() and not isinstance(part, ReadsFiles)  # a file's own digest is in its identity
        identity = {**_identity(part), "saved": digest_file(saved) if learned else ""}
        held_amounts: dict[str, Amount] = {}
        for number, domain in enumerate(sorted({document.domain for document in heldout})):
            chosen = [document for document in heldout if document.domain == domain]
            held_amounts |= _write(target / f"heldout-{number}.bin", chosen, tokenizer)
        seal(
            target,
            CorpusManifest,
            train=_write(target / "train.bin", train, tokenizer),
            heldout=held_amounts,
            fingerprint=_fingerprint(everything, held, identity, share),
            exact_duplicates=len(found.exact),
            near_duplicates=len(found.near),
        )


def _write(path: Path, documents: Sequence[Document], tokenizer: Tokenizer) -> dict[str, Amount]:
    """Write the stream of ``documents``; how much of each domain it holds."""
    counts = {domain: [0, 0, 0] for domain in sorted({document.domain for document in documents})}
    end = np.array([tokenizer.eot])

    def stream() -> Iterator[Ids]:
        yield end
        for document, ids in _tokenised(tokenizer, documents):
            count = counts[document.domain]
            count[0] += 1
            count[1] += len(document.text.encode())
            count[2] += len(ids) + 1
            yield ids
            yield end

    write_tokens(path, stream(), token_type(tokenizer.vocab_size))
    return {domain: Amount(documents=n, text_bytes=b, tokens=t) for domain, (n, b, t) in counts.items()}


def _left_out(kept: int, exact: int, near: int, example: str = "") -> str:
    dropped = exact + near
    if not dropped:
        return ""
    switch = "none or exact keeps" if near else "none keeps"
    return (
        f"{dropped:,} of {kept + dropped:,} documents are left out as duplicates ({exact:,} exact, {near:,} near"
        f"{example}): source.deduplicate={switch} them"
    )


def _example(found: Distinct, documents: Sequence[Document]) -> str:
    for pairs, relation in ((found.near, "nearly equals"), (found.exact, "equals")):
        if pairs:
            dropped, kept = pairs[0]
            return f"; {documents[dropped].origin} {relation} {documents[kept].origin}"
    return ""


def _order(document: Document) -> tuple[bytes, str]:
    """Where a document comes in the stream: by a hash of its text and group, whatever the files' names."""
    content = document_hash(document.text) + document.group.encode()
    return hashlib.blake2b(content, digest_size=16).digest(), document.domain


def _tokenised(tokenizer: Tokenizer, documents: Sequence[Document]) -> Iterator[tuple[Document, Ids]]:
    chunk: list[Document] = []
    size = 0
    for number, document in enumerate(documents, 1):
        chunk.append(document)
        size += len(document.text)
        if size >= _CHUNK or number == len(documents):
            yield from zip(chunk, encode_many(tokenizer, [each.text for each in chunk]), strict=True)
            chunk, size = [], 0


def _identity(tokenizer: TokenizerPart) -> dict[str, Any]:
    """That of a given tokenizer is as if it had been trained here: the file that is kept of it says the rest."""
    tokenizer = tokenizer.part if isinstance(tokenizer, GivenTokenizer) else tokenizer
    read = tokenizer.inputs() if isinstance(tokenizer, ReadsFiles) else ""
    return {"part": tokenizer.model_dump(mode="json"), "inputs": read}


def _fingerprint(documents: Sequence[Document], held: frozenset[str], tokenizer: Any, share: float) -> str:
    rows = sorted([document_hash(d.text).hex(), d.domain, d.group in held] for d in documents)
    return digest({"documents": rows, "tokenizer": tokenizer, "heldout_share": share})


@contextlib.contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Wait until no other process makes ``directory``; clear what a killed one left. The lock dies with its process."""
    with disk_errors(directory):
        directory.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(directory.parent / f".lock-{directory.name}", os.O_CREAT | os.O_RDWR, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        for leftover in directory.parent.glob(f"{PARTIAL}*-{directory.name}"):
            shutil.rmtree(leftover, ignore_errors=True)
        yield
    finally:
        os.close(handle)

"""Making a corpus: documents without duplicates, split, tokenised and kept in the cache.

A corpus is named by a key over whatever it is made from (the source part, a digest of its raw input, the tokenizer
part), so that a second run finds it without reading a document. Its directory appears by one rename; processes that
want the same corpus at once make it once.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..core.context import Context
from ..core.contracts import TOKENIZER, Storable, TokenizerPart
from ..core.digests import digest, digest_file, document_hash
from ..core.errors import DataError, NotMade
from ..core.files import clear_leftovers_of, disk_errors, publish_directory, take_lock
from ..core.reading import read_json
from ..core.tokenizer import GivenTokenizer, ReadsFiles
from .corpus import Amount, Corpus, CorpusManifest, hash_of, left_out
from .dedup import Deduplicate, Distinct, distinct
from .document import Document, utf8
from .shards import MANIFEST, seal
from .split import held_out_groups
from .tokenizing import beginning
from .writing import write_documents

FORMAT = 3
"""Part of every key: rises when the same input would give another corpus."""


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
        tokenizer: what makes tokens of them; trained on the training split if it needs to be.
        ctx: its ``cache`` is where the corpus lies.
        inputs: JSON that changes whenever the documents do (digests of files, not their paths); None: the documents
            are read and hashed for it.
        deduplicate: which duplicates are left out: "near" ones as well as exact ones, "exact" ones, None. Of several,
            a hash of their content decides which one stays.
        heldout_share: share of groups that is held out.
        heldout_bytes: see ``Corpus.heldout``.
        entropy_per_byte: the exact entropy of the text in bits a byte, where it is known.

    Raises:
        DataError: no documents, nothing to hold out, text that cannot be encoded, a damaged shard in the cache.
        NotMade: the cache does not hold it, and ``ctx.make`` is False.

    Example, with ``ctx`` a context that reads bytes:
        >>> documents = [Document(f"text number {i}", "text", str(i), f"{i:032x}") for i in range(40)]
        >>> made, again = (prepare(documents, ctx.tokenizer, ctx, deduplicate="exact") for _ in range(2))
        >>> made.fingerprint == again.fingerprint, made.directory == again.directory
        (True, True)
    """
    if inputs is None:
        documents = list(documents)
        inputs = [[hash_of(d.prompt, d.completion), d.domain, d.group] for d in documents]
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
        if not ctx.make:
            raise NotMade("no text of these settings has been read yet", where=str(directory), fix="train on it once")
        with _alone(directory):
            if not directory.exists():  # another process may have made it while we waited
                _make(directory, documents, tokenizer, ctx, deduplicate, heldout_share)
    return Corpus(directory, tokenizer, ctx, heldout_bytes=heldout_bytes, entropy_per_byte=entropy_per_byte)


def kept(
    fingerprint: str,
    tokenizer: TokenizerPart,
    ctx: Context,
    *,
    heldout_bytes: int = 0,
    entropy_per_byte: float | None = None,
) -> Corpus | None:
    """The corpus with that fingerprint as it was made once, from the cache alone; None where it is not there."""
    for place in sorted((ctx.cache / "corpora").glob(f"[!.]*/{MANIFEST}")):
        with contextlib.suppress(DataError):
            if read_json(place, CorpusManifest).fingerprint == fingerprint:
                where = place.parent
                return Corpus(where, tokenizer, ctx, heldout_bytes=heldout_bytes, entropy_per_byte=entropy_per_byte)
    return None


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
    remark = left_out(len(found.kept), len(found.exact), len(found.near), _example(found, everything))
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
        own_starts = bool(beginning(tokenizer)) or any(document.chat for document in everything)
        held_amounts: dict[str, Amount] = {}
        for number, domain in enumerate(sorted({document.domain for document in heldout})):
            chosen = [document for document in heldout if document.domain == domain]
            path = target / f"heldout-{number}.bin"
            held_amounts |= write_documents(path, chosen, tokenizer, own_starts=own_starts)
        seal(
            target,
            CorpusManifest,
            train=write_documents(target / "train.bin", train, tokenizer, own_starts=own_starts),
            heldout=held_amounts,
            fingerprint=_fingerprint(everything, held, identity, share),
            exact_duplicates=len(found.exact),
            near_duplicates=len(found.near),
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


def _identity(tokenizer: TokenizerPart) -> dict[str, Any]:
    """That of a given tokenizer is as if it had been trained here: the file that is kept of it says the rest."""
    tokenizer = tokenizer.part if isinstance(tokenizer, GivenTokenizer) else tokenizer
    read = tokenizer.inputs() if isinstance(tokenizer, ReadsFiles) else ""
    return {"part": tokenizer.model_dump(mode="json"), "inputs": read}


def _fingerprint(documents: Sequence[Document], held: frozenset[str], tokenizer: Any, share: float) -> str:
    rows = sorted([hash_of(d.prompt, d.completion), d.domain, d.group in held] for d in documents)
    return digest({"documents": rows, "tokenizer": tokenizer, "heldout_share": share})


@contextlib.contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Wait until no other process makes ``directory``; clear what a killed one left. The lock dies with its process."""
    with disk_errors(directory):
        directory.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(directory.parent / f".lock-{directory.name}", os.O_CREAT | os.O_RDWR, 0o644)
    try:
        take_lock(handle, tries=None)
        clear_leftovers_of(directory)
        yield
    finally:
        os.close(handle)

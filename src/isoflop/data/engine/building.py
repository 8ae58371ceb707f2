"""Tokenising files of any size into the shards that training reads, a unit at a time."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...core.contracts import TOKENIZER, Storable, Tokenizer, TokenizerPart
from ...core.digests import digest, digest_file
from ...core.errors import DataError, UsageError
from ...core.files import publish_directory, publish_file, write_json
from ..corpus import Amount, CorpusManifest
from ..document import group_of
from ..shards import seal, token_type
from ..split import point
from ..tokenizing import MayAlter, beginning, encode_many
from .inputs import Unit, blocks
from .jobs import Counts, Desk, JobSettings, conclude, opened_job, work_through
from .scoring import sampled

CORPUS, BUILT, TOKENS = "corpus", "built.json", "tokens"
"""The folder that training reads, what says which tokenizer made it, and the units' tokens."""
SIDES = ("train", "heldout")


@dataclass(frozen=True)
class Tokenising:
    """The work on a unit: its documents as ids, each with the end of a text behind it, for training or held out.

    Args:
        tokenizer: live.
        share: of documents that is held out, by a hash of each.
        group: a key of records: those that share its value lie on the same side.

    Example:
        >>> from isoflop.data.tokenizers.bytes import Bytes
        >>> Tokenising(Bytes(), 0.05).share
        0.05
    """

    tokenizer: Tokenizer
    share: float
    group: str | None = None

    def __call__(self, unit: Unit, desk: Desk) -> Counts:
        counts, kind = Counts(), token_type(self.tokenizer.vocab_size)
        with ExitStack() as stack:
            files = {}
            for side in SIDES:
                partial = stack.enter_context(publish_file(desk.path(TOKENS, unit.number, side)))
                files[side] = stack.enter_context(partial.open("wb"))
            for block in blocks(desk.texts(unit, counts, *([self.group] if self.group else []))):
                rows = [row for row in block if row.text.strip()]
                counts["empty"] += len(block) - len(rows)
                encoded = encode_many(self.tokenizer, [row.text for row in rows])
                for row, ids in zip(rows, encoded, strict=True):
                    of = row.text if self.group is None else str(row.record.get(self.group, row.text))
                    side = "heldout" if point(group_of(of)) < self.share else "train"
                    files[side].write(np.append(ids, self.tokenizer.eot).astype(kind).tobytes())
                    counts[f"{side}.documents"] += 1
                    counts[f"{side}.text_bytes"] += len(row.text.encode())
                    counts[f"{side}.tokens"] += len(ids) + 1
        return counts


def build(
    units: Sequence[Unit],
    part: TokenizerPart,
    settings: JobSettings,
    *,
    share: float = 0.05,
    domain: str = "text",
    group: str | None = None,
) -> dict[str, Any]:
    """Tokenise documents into ``settings.out``; the source ``built`` trains on it.

    Documents are taken as they are: clean and deduplicate before. A tokenizer that learns learns from a sample.

    Args:
        units: of the input.
        part: the tokenizer.
        settings: where and how.
        share: of documents that is held out.
        domain: what the held-out text is evaluated under.
        group: a key of records: those that share its value, such as a text and its rephrasing, lie on the same side.

    Raises:
        UsageError: the tokenizer puts something before each text, or does not give its text back.
        DataError: nothing would be left to train on, or nothing held out.

    Example:
        >>> from isoflop.data.engine.inputs import units_of
        >>> from isoflop.data.tokenizers.bytes import BytesPart
        >>> _ = Path("a.jsonl").write_text("".join('{"text": "text %d"}\\n' % i for i in range(40)))
        >>> found = build(units_of(["a.jsonl"]), BytesPart(), JobSettings(Path("out")), share=0.2)
        >>> found["counts"]["train.documents"] + found["counts"]["heldout.documents"]
        40
    """
    identity = {"part": part.header() | part.model_dump(mode="json")}
    what = {"verb": "build", "tokenizer": identity, "share": share, "domain": domain}
    what |= {} if group is None else {"group": group}
    with opened_job(settings, units, what):
        tokenizer = part.build(sampled(units, settings.keys))
        if beginning(tokenizer) or isinstance(tokenizer, MayAlter):
            fix = "take bytes, bpe, or a file of byte-level pairs"
            raise UsageError("puts something before each text, or alters it", where=f"tokenizer {part.name}", fix=fix)
        counts = work_through(units, Tokenising(tokenizer, share, group), settings)
        for side, lack in zip(SIDES, ("to train on", "held out"), strict=True):
            if not counts[f"{side}.documents"]:
                raise DataError(f"leaves nothing {lack}", where="the input", fix="give more documents or another share")
        place = settings.out / CORPUS
        if not place.exists():
            _publish(place, settings.out / TOKENS, tokenizer, identity, counts, domain)
        return conclude(settings, counts, verb="build", tokenizer=identity)


def _publish(
    place: Path, parts: Path, tokenizer: Tokenizer, identity: dict[str, Any], counts: Counts, domain: str
) -> None:
    first = np.array([tokenizer.eot], token_type(tokenizer.vocab_size)).tobytes()
    amounts = {side: Amount(**{key: counts[f"{side}.{key}"] for key in _AMOUNTS}) for side in SIDES}
    with publish_directory(place) as target:
        if isinstance(tokenizer, Storable):
            tokenizer.save(target / TOKENIZER)
        write_json(target / BUILT, identity)
        for side, name in zip(SIDES, ("train.bin", "heldout-0.bin"), strict=True):
            with (target / name).open("wb") as out:
                out.write(first)
                for file in sorted(parts.glob(f"part-*.{side}")):
                    with file.open("rb") as tokens:
                        shutil.copyfileobj(tokens, out, 1 << 22)
        names = sorted(path.name for path in target.iterdir())
        seal(
            target,
            CorpusManifest,
            train={domain: amounts["train"]},
            heldout={domain: amounts["heldout"]},
            fingerprint=digest([[name, digest_file(target / name)] for name in names]),
            exact_duplicates=0,
            near_duplicates=0,
        )


_AMOUNTS = ("documents", "text_bytes", "tokens")

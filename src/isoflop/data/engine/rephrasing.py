"""Rephrasing of documents (WRAP, Maini et al. 2024): real ones beside what a generator makes of them, in pairs.

A generator is slow and may be far away, so that what it answered is noted as it comes: killed and started again, a job
asks for nothing twice and leaves the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, Protocol

import numpy as np

from ...core.cost import Cost
from ...core.digests import document_hash
from ...core.errors import UsageError, nearest
from ...core.files import append_jsonl, mend_jsonl
from ...core.reading import read_jsonl
from ..hashing import ngrams
from .contamination import TestGrams, items_of
from .inputs import DocumentRow, Unit, stamps
from .jobs import (
    ATTRIBUTES,
    DOCUMENTS,
    Counts,
    Desk,
    JobSettings,
    add_cost,
    conclude,
    json_line,
    opened_job,
    take_cost,
    work_through,
)
from .pages import Pages, within

STYLES: dict[str, str] = {
    "easy": "Say the following again in short, plain sentences with the most common words, so that a small child can "
    "follow it.",
    "medium": "Say the following again in clear, well-formed English, as an encyclopedia would.",
    "hard": "Say the following again in dense, scholarly language with rare words, as briefly as it can be said.",
    "qa": "Turn the following into a conversation of several questions and their answers. Begin each question with "
    '"Question:" and each answer with "Answer:".',
}
"""What a generator is asked for, by style."""
PREAMBLE = "You rewrite texts. You keep every fact, add none, and answer with the new text alone."
PAIR, KIND, STYLE = "pair", "kind", "style"
"""Keys of a record: what it shares with the other half of its pair; "real" or "rephrased"; and in which style."""
ANSWERS = "answers"
TOGETHER = 32
"""Documents that a generator is asked about at once, and noted together."""
RUN = 5
"""Words in a row by which it is told how much of a text is taken over."""
_SENTENCE = re.compile(r"(?<=[.!?…])[\"'”’)\]]*\s+")


class Rephraser(Protocol):
    """What writes texts anew.

    Attributes:
        identity: tells it from others: a job goes on with the same one only.
        bill: what making it cost, as JSON with ``flops``.
        cost: what it has spent so far.
        concurrent: whether several processes may each have one.
    """

    identity: str
    bill: Mapping[str, Any]
    cost: Cost
    concurrent: bool

    def rewrite(self, pieces: Sequence[tuple[str, str]], draw: str) -> list[str]:
        """Each text in its style; the same ones for the same ``draw``, which names the random numbers.

        Args:
            pieces: texts with the name of a style.
            draw: of this call.
        """


@dataclass(frozen=True)
class Rephrasing:
    """Which documents are rephrased, and how.

    Args:
        styles: of which each rephrased document takes one, by a hash of it.
        share: of documents that are rephrased; at 1 there are as many as real ones.
        words: of a piece that is rephrased at once (the paper: 300 tokens).
        shortest: words of a rephrased document over the real one's, at least; shorter ones are left out.
        longest: likewise, at most.
        seed: another one draws other documents and styles.

    Example:
        >>> Rephrasing(styles=("easy", "qa")).style_of("some text") in ("easy", "qa")
        True
    """

    styles: tuple[str, ...] = ("medium",)
    share: float = 1.0
    words: int = 225
    shortest: float = 0.2
    longest: float = 4.0
    seed: int = 0

    def __post_init__(self) -> None:
        if unknown := [style for style in self.styles if style not in STYLES]:
            raise UsageError(f"no style is named {unknown[0]!r}", where="rephrase", fix=nearest(unknown[0], STYLES))
        if not self.styles or not 0 < self.share <= 1 or self.words < 1 or not 0 <= self.shortest < self.longest:
            raise UsageError("styles, share, words, shortest or longest is out of range", where="rephrase")

    def style_of(self, text: str) -> str | None:
        """The style that a document is rephrased in; None if it is left as it is."""
        drawn = document_hash(f"{self.seed}:{text}")
        if not text.strip() or int.from_bytes(drawn[:8], "big") / 2.0**64 >= self.share:
            return None
        return self.styles[int.from_bytes(drawn[8:], "big") % len(self.styles)]


def pieces_of(text: str, words: int) -> list[str]:
    """A text in pieces of so many words at most, cut at paragraphs, else at sentences, else at words.

    Example:
        >>> pieces_of("One two. Three four five.\\n\\nSix.", 3)
        ['One two.', 'Three four five.', 'Six.']
    """
    found, held = list[str](), 0
    for part, between in _parts(text, words):
        size = len(part.split())
        if found and held + size <= words:
            found[-1] += between + part
            held += size
        else:
            found.append(part)
            held = size
    return found


def _parts(text: str, words: int) -> Iterator[tuple[str, str]]:
    """Paragraphs, or what they are cut into, each with what stands before it."""
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        between = "\n\n"
        for sentence in [paragraph] if len(paragraph.split()) <= words else _SENTENCE.split(paragraph):
            whole = sentence.split()
            if len(whole) <= words:
                if whole:
                    yield sentence.strip(), between
            else:
                yield from ((" ".join(whole[at : at + words]), " ") for at in range(0, len(whole), words))
            between = " "


@dataclass(frozen=True)
class Rewriting:
    """The work on a unit: its documents as they are, each that was drawn followed by its rephrasing.

    Args:
        rephraser: live.
        how: which, and in what style.
        tests: what no rephrased document may hold; None: nothing is looked for.

    Example:
        >>> from isoflop.data.engine.templates import TemplateRephraser
        >>> Rewriting(TemplateRephraser(), Rephrasing()).how.share
        1.0
    """

    rephraser: Rephraser
    how: Rephrasing
    tests: TestGrams | None = None

    def __call__(self, unit: Unit, desk: Desk) -> Counts:
        counts, journal = Counts(), desk.path(ANSWERS, unit.number, "jsonl")
        journal.parent.mkdir(exist_ok=True)
        mend_jsonl(journal)
        known = read_jsonl(journal, dict[str, Any]) if journal.exists() else []
        with desk.writer(DOCUMENTS, unit.number) as keep, desk.writer(ATTRIBUTES, unit.number, "jsonl.gz") as note:
            for number, rows in enumerate(_together(desk.rows(unit, counts))):
                if number == len(known):
                    known.append(self._asked(rows, f"{unit.number}:{number}"))
                    append_jsonl(journal, known[number])
                add_cost(counts, Cost(**known[number]["cost"]))
                for row, text, found in self._judged(rows, known[number]["texts"]):
                    self._count(counts, row, text, found)
                    note(json_line({"id": row.id, **found}))
                    for line in self._pair(row, text, found, desk):
                        keep(line)
        return counts

    def _asked(self, rows: Sequence[DocumentRow], draw: str) -> dict[str, Any]:
        """What the generator makes of the documents that are drawn, "" for the others, and what that cost."""
        tasks: list[tuple[int, str, str]] = []
        for place, row in enumerate(rows):
            if style := self.how.style_of(row.text):
                tasks += [(place, piece, style) for piece in pieces_of(row.text, self.how.words)]
        before = self.rephraser.cost
        answers = self.rephraser.rewrite([(piece, style) for _, piece, style in tasks], draw) if tasks else []
        texts: list[list[str]] = [[] for _ in rows]
        for (place, _, _), answer in zip(tasks, answers, strict=True):
            texts[place].append(answer.strip())
        spent = asdict(self.rephraser.cost - before)
        return {"texts": ["\n\n".join(filter(None, each)) for each in texts], "cost": spent}

    def _judged(
        self, rows: Sequence[DocumentRow], texts: Sequence[str]
    ) -> Iterator[tuple[DocumentRow, str, dict[str, Any]]]:
        """Each document with its rephrasing and what is known of that."""
        pages, real = Pages(texts), Pages([row.text for row in rows])
        hits = self.tests.hits(pages).tolist() if self.tests is not None else [0] * len(rows)
        known = self.tests.hits(real).tolist() if self.tests is not None else [0] * len(rows)
        copied = copied_share(pages, real)
        sizes = list(zip(pages.words.counts.tolist(), real.words.counts.tolist(), strict=True))
        for place, row in enumerate(rows):
            style = self.how.style_of(row.text)
            found: dict[str, Any] = {"keep": True, "style": style}
            if style is not None:
                found |= {"rephrased": self._reason(row.text, texts[place], *sizes[place], hits[place]) or "kept"}
                found |= {"copied": round(copied[place], 4)} if sizes[place][0] else {}
            if self.tests is not None:
                found |= {"words_in_tests": known[place], "rephrased_words_in_tests": hits[place]}
            yield row, texts[place], found

    def _reason(self, real: str, text: str, size: int, whole: int, hits: int) -> str:
        """Why a rephrasing is left out; "" if it is not."""
        if not text.strip():
            return "empty"
        if text.split() == real.split():
            return "unchanged"
        if size < self.how.shortest * whole:
            return "too_short"
        if size > self.how.longest * max(whole, 1):
            return "too_long"
        return "leaked" if hits else ""

    @staticmethod
    def _count(counts: Counts, row: DocumentRow, text: str, found: Mapping[str, Any]) -> None:
        counts["kept"] += 1
        counts["real_bytes"] += len(row.text.encode())
        counts["real_in_tests"] += found.get("words_in_tests", 0) > 0
        if outcome := found.get("rephrased"):
            counts[f"rephrased.{outcome}"] += 1
        if found.get("rephrased") == "kept":
            counts["rephrased_bytes"] += len(text.encode())
            counts[f"style.{found['style']}"] += 1
            counts["copied_permille"] += round(1000 * found["copied"])

    @staticmethod
    def _pair(row: DocumentRow, text: str, found: Mapping[str, Any], desk: Desk) -> Iterator[bytes]:
        pair = document_hash(row.text).hex()[:16]
        record = {**row.record, PAIR: pair, KIND: "real"}
        yield DocumentRow(row.where, row.id, row.text, record).line(desk.keys.text, desk.keys.id)
        if found.get("rephrased") == "kept":
            name = f"{row.id}#{found['style']}"
            record = {**row.record, desk.keys.id: name, PAIR: pair, KIND: "rephrased", STYLE: found["style"]}
            yield DocumentRow(row.where, name, text, record).line(desk.keys.text, desk.keys.id)


def _together(rows: Iterator[DocumentRow]) -> Iterator[list[DocumentRow]]:
    while found := list(islice(rows, TOGETHER)):
        yield found


def copied_share(texts: Pages, sources: Pages, run: int = RUN) -> list[float]:
    """Of each text's runs of words the share that its source holds, too; of a text without a run 0.

    Example:
        >>> copied_share(Pages(["a b c d e f x"]), Pages(["a b c d e f"]))[0]
        0.6666666666666666
    """
    found = []
    ours, theirs = (ngrams(pages.word_hashes, run) for pages in (texts, sources))
    inside = [within(pages.words, run) for pages in (texts, sources)]
    for number in range(len(texts)):
        (a, b), (c, d) = (pages.words.bounds[number : number + 2] for pages in (texts, sources))
        mine, its = ours[a:b][inside[0][a:b]], theirs[c:d][inside[1][c:d]]
        found.append(float(np.isin(mine, its).mean()) if len(mine) else 0.0)
    return found


def rephrase(
    units: Sequence[Unit],
    rephraser: Rephraser,
    how: Rephrasing,
    settings: JobSettings,
    tests: Sequence[Unit] = (),
) -> dict[str, Any]:
    """Write documents with their rephrasings; each pair shares a key, so that it stays on one side of a split.

    A rephrasing that is empty, unchanged, far too short or long, or shares 13 words in a row with a test is left out,
    and counted. So is what of each is taken over from its document, and what generation cost.

    Args:
        units: of the input.
        rephraser: what writes them.
        how: which documents, and in what style.
        settings: where and how.
        tests: files of tests.

    Example:
        >>> from pathlib import Path
        >>> from isoflop.data.engine.inputs import units_of
        >>> from isoflop.data.engine.templates import TemplateRephraser
        >>> _ = Path("a.jsonl").write_text('{"text": "The river is long."}')
        >>> found = rephrase(units_of(["a.jsonl"]), TemplateRephraser(), Rephrasing(("qa",)), JobSettings(Path("out")))
        >>> found["counts"]["rephrased.kept"], found["counts"]["style.qa"]
        (1, 1)
    """
    what: dict[str, Any] = {"verb": "rephrase", "rephraser": rephraser.identity, "how": asdict(how)}
    what |= {"tests": stamps(tests)} if tests else {}
    with opened_job(settings, units, what):
        grams = TestGrams.of(list(items_of(tests))) if tests else None
        work = Rewriting(rephraser, how, grams)
        counts = work_through(units, work, settings if rephraser.concurrent else settings.alone)
        spent = take_cost(counts)
        copied = counts.pop("copied_permille", 0) / 1000 / max(counts["rephrased.kept"], 1)
        facts = {"rephraser": rephraser.identity, "how": asdict(how), "copied": copied}
        bills = {"generator": dict(rephraser.bill)}
        return conclude(settings, counts, verb="rephrase", **facts, fitting=asdict(Cost()), scoring=spent, models=bills)

"""Documents in files as a page: lengths, languages, duplicates, and what each step dropped, with examples."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import altair as alt

from ..core.files import write_atomic
from ..store.corpora import CorpusFacts, DroppingStep
from . import render
from .charts import Figures
from .html import Specs, download, figure, folded, frame, section, table_of
from .sheets import Sheet
from .style import Chart, rows
from .text import clean, si

MOST = 20
"""Rows of a table of names."""


def headline(facts: CorpusFacts) -> str:
    """How much there is, and how much of it is there twice."""
    counts = facts.counts
    documents, twice = counts.get("documents", 0), counts.get("equal_texts", 0)
    share = f" {_percent(twice, documents)} of the documents repeat another word for word." if twice else ""
    return f"{documents:,} documents, {counts.get('words', 0):,} words, {si(counts.get('bytes', 0), 'B')}.{share}"


def length_sheet(facts: CorpusFacts) -> Sheet:
    """Documents by characters, in powers of two."""
    documents = facts.counts.get("documents", 0)
    lines = [(f"{low:,} to {high:,}", f"{n:,}", _percent(n, documents)) for low, high, n in _lengths(facts)]
    return Sheet("Lengths", ("characters", "documents", "share"), lines, frozenset({1, 2}))


def name_sheet(title: str, column: str, counts: Mapping[str, int], documents: int) -> Sheet:
    """Documents by a name, the commonest first."""
    lines = [(clean(name), f"{n:,}", _percent(n, documents)) for name, n in list(counts.items())[:MOST]]
    left = len(counts) - len(lines)
    note = f"and {left:,} more" if left > 0 else ""
    return Sheet(title, (column, "documents", "share"), lines, frozenset({1, 2}), note)


def duplicate_sheet(facts: CorpusFacts) -> Sheet:
    """What is there more than once, or is nothing."""
    documents = facts.counts.get("documents", 0)
    kinds = {"equal_texts": "equal texts", "equal_ids": "equal ids", "empty": "empty", "broken": "lines that hold none"}
    lines = [
        (words, f"{n:,}", _percent(n, documents)) for name, words in kinds.items() if (n := facts.counts.get(name))
    ]
    return Sheet("Duplicates and what is no document", ("what", "documents", "share"), lines, frozenset({1, 2}))


def step_sheet(step: DroppingStep) -> Sheet:
    """What a step dropped, by reason."""
    lines = [
        (clean(found.reason), f"{found.documents:,}", _percent(found.documents, step.documents))
        for found in step.reasons
    ]
    lines.append(("kept", f"{step.kept:,}", _percent(step.kept, step.documents)))
    note = f"{step.documents:,} documents came in. Of one that several rules drop, each counts."
    title = f"{step.verb}: {clean(step.folder)}"
    return Sheet(title, ("reason", "documents", "share"), lines, frozenset({1, 2}), f"{note} {step.remark}".strip())


def figures(facts: CorpusFacts) -> Figures:
    """Documents by length."""
    lengths = _lengths(facts)
    if len(lengths) < 2:
        return {}
    records = [{"characters": low, "to": high + 1, "documents": n} for low, high, n in lengths]
    x = alt.X("characters:Q", scale=alt.Scale(type="symlog"), axis=alt.Axis(title="characters", format="~s"))
    y = alt.Y("documents:Q", axis=alt.Axis(title="documents", format="~s"))
    bars: Chart = alt.Chart(rows(records)).mark_bar().encode(x=x, x2="to:Q", y=y)
    return {"lengths": bars.properties(height=220, description="documents by characters")}


def write_corpus_page(facts: CorpusFacts, page: Path) -> None:
    """Write the page.

    Raises:
        StorageError: the disk refused.
    """
    write_atomic(page, corpus_page(facts, render.specifications(figures(facts))))


def corpus_page(facts: CorpusFacts, specs: Specs) -> str:
    """The page, with its charts' specifications by name."""
    documents = facts.counts.get("documents", 0)
    drawn = {name: figure(name) for name in specs}
    names = [
        ("Languages", "language", facts.of("language")),
        ("Scripts", "script", facts.of("script")),
        *([(f"By {clean(facts.key)}", clean(facts.key), facts.of(facts.key))] if facts.key else []),
    ]
    steps = [section(f"Dropped by {step.verb}: {clean(step.folder)}", *_step_blocks(step)) for step in facts.steps]
    sections = [
        section("Lengths", drawn.get("lengths", ""), table_of(length_sheet(facts))),
        *(section(title, table_of(name_sheet(title, name, counts, documents))) for title, name, counts in names),
        section("Duplicates", table_of(duplicate_sheet(facts))),
        *steps,
        section("Data", download("corpus.json", "Download every count")),
    ]
    return frame(
        kind="isoflop data stats",
        title=f"{documents:,} documents",
        headline=headline(facts),
        facts={"Characters": f"{facts.counts.get('characters', 0):,}", "Words": f"{facts.counts.get('words', 0):,}"},
        sections=sections,
        specs=specs,
        data=facts.model_dump(mode="json"),
        footer="Words are runs of letters, digits and underscores; equal texts are equal to the byte.",
    )


def _step_blocks(step: DroppingStep) -> list[str]:
    blocks = [table_of(step_sheet(step))]
    for found in step.reasons:
        shown = "\n\n".join(f"[{clean(each.id)}]\n{each.text}" for each in found.examples)
        blocks.append(folded(f"Examples of “{found.reason}”", shown))
    return blocks


def _lengths(facts: CorpusFacts) -> list[tuple[int, int, int]]:
    """Least and most characters of each class, and its documents."""
    found = sorted((int(bits), n) for bits, n in facts.of("length").items())
    return [(2 ** (bits - 1) if bits else 0, 2**bits - 1, n) for bits, n in found]


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else ""

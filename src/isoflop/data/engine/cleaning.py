"""Cleaning: every document through a chain of filters in one pass; decisions and reasons are kept beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...core.contracts import FilterPart
from ...core.digests import digest_file
from ...core.errors import UsageError, nearest
from ...core.reading import user_path
from ...core.slots import part_from
from .inputs import DocumentRow, Unit, blocks
from .jobs import ATTRIBUTES, DOCUMENTS, Counts, Desk, JobSettings, conclude, json_line, opened_job, work_through
from .pages import Pages

CHAINS: dict[str, tuple[str, ...]] = {
    "gopher": ("gopher_quality", "gopher_repetition"),
    "c4": ("c4",),
    "fineweb": ("gopher_repetition", "gopher_quality", '{name = "c4", terminal = false}', "fineweb"),
    "dclm": (
        '{name = "gopher_quality", distinct = false, bullets = ["•", "‣", "*", "-"]}',
        "gopher_repetition",
        "dclm_lines",
    ),
}
"""Published chains, their filters in order."""


def chain_of(name: str) -> list[FilterPart]:
    """The filters of a published chain; UsageError for another name.

    Example:
        >>> [each.name for each in chain_of("gopher")]
        ['gopher_quality', 'gopher_repetition']
    """
    if name not in CHAINS:
        raise UsageError(f"no chain is named {name!r}", where="--chain", fix=nearest(name, CHAINS))
    return [filter_of(text) for text in CHAINS[name]]


def filter_of(text: str) -> FilterPart:
    """The filter that a command line names, by its name or as a table."""
    part = part_from("filter", text)
    assert isinstance(part, FilterPart)
    return part


@dataclass(frozen=True)
class Clean:
    """The work of cleaning a unit.

    Args:
        filters: in order; after one that edits, the next sees the mended text.

    Example:
        >>> Clean(tuple(chain_of("c4"))).filters[0].name
        'c4'
    """

    filters: tuple[FilterPart, ...]

    def __call__(self, unit: Unit, desk: Desk) -> Counts:
        counts = Counts()
        with desk.writer(DOCUMENTS, unit.number) as keep, desk.writer(ATTRIBUTES, unit.number, "jsonl.gz") as note:
            for block in blocks(desk.rows(unit, counts)):
                for row, reasons, edited, notes in self.judged(block):
                    counts["kept"] += not reasons
                    counts["edited"] += edited and not reasons
                    counts.update(f"dropped.{name}.{reason}" for name, reason in reasons.items())
                    found = {"id": row.id, "keep": not reasons, "reasons": reasons, "edited": edited}
                    note(json_line(found | ({"notes": notes} if notes else {})))
                    if not reasons:
                        counts["kept_characters"] += len(row.text)
                        keep(row.line(desk.keys.text, desk.keys.id))
        return counts

    def judged(
        self, rows: Sequence[DocumentRow]
    ) -> Iterator[tuple[DocumentRow, dict[str, str], bool, dict[str, Mapping[str, Any]]]]:
        """Every row with the reasons why it is dropped, whether its text was mended, and notes, each by filter.

        Filters that follow each other without an edit all see the same documents, so that each says what it thinks of
        one that another drops.
        """
        reasons: list[dict[str, str]] = [{} for _ in rows]
        notes: list[dict[str, Mapping[str, Any]]] = [{} for _ in rows]
        edited = [False] * len(rows)
        alive = [number for number, row in enumerate(rows) if row.text.strip()]
        for number in set(range(len(rows))) - set(alive):
            reasons[number]["empty"] = "empty"
        pages = self._pages(rows, alive)
        for each in self.filters:
            if not alive:
                break
            found = each.judge(pages)
            for place, reason in enumerate(found.reasons):
                if reason:
                    reasons[alive[place]][each.name] = reason
            for place, noted in enumerate(found.notes):
                notes[alive[place]][each.name] = noted
            if not found.edited:
                continue
            for place, text in found.edited.items():
                if not reasons[alive[place]]:
                    rows[alive[place]].text, edited[alive[place]] = text, True
            alive = [number for number in alive if not reasons[number]]
            pages = self._pages(rows, alive)
        yield from zip(rows, reasons, edited, notes, strict=True)

    @staticmethod
    def _pages(rows: Sequence[DocumentRow], alive: Sequence[int]) -> Pages:
        chosen = [rows[number] for number in alive]
        return Pages([row.text for row in chosen], [row.record for row in chosen])


def clean(units: Sequence[Unit], filters: Sequence[FilterPart], settings: JobSettings) -> dict[str, Any]:
    """Clean documents into ``settings.out``: ``documents`` that stay, and ``attributes`` of all, line by line.

    Args:
        units: of the input.
        filters: in order.
        settings: where and how.

    Returns:
        What came of it: counts of documents, kept ones, and what each filter dropped for which reason. Of a document
        that several drop, each is counted.

    Example:
        >>> from pathlib import Path
        >>> from isoflop.data.engine.inputs import units_of
        >>> _ = Path("a.jsonl").write_text('{"text": "too short"}')
        >>> clean(units_of(["a.jsonl"]), chain_of("gopher"), JobSettings(Path("clean")))["counts"]["documents"]
        1
    """
    names = [{"name": each.name, **each.model_dump(mode="json")} for each in filters]
    read = {path: digest_file(user_path(path)) for each in filters for path in each.reads()}
    with opened_job(settings, units, {"verb": "clean", "filters": names} | ({"reads": read} if read else {})):
        counts = work_through(units, Clean(tuple(filters)), settings)
        return conclude(settings, counts, verb="clean", filters=names)

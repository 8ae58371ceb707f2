"""One page over everything below a root: studies, claims, pipelines, fits and runs, to be searched offline."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..core.errors import DataError
from ..core.files import write_atomic
from ..core.reading import read_json
from ..core.scale import Scale
from ..store.index import fits, runs, studies
from ..store.pipelines import PIPELINE, PipelineResult
from ..store.progress import unfinished
from .html import frame, section, table_of
from .sheets import Sheet
from .text import amount, clean, known, moment

INDEX_PAGE = "index.html"
Claims = Sequence[Mapping[str, Any]]
"""Of each claim: name, verdict, statement, published, and marks."""


def write_index(root: Path, claims: Claims = ()) -> Path:
    """Write ``index.html`` into a root; its path.

    Raises:
        DataError: the root is no directory.
        StorageError: the disk refused.
    """
    page = root / INDEX_PAGE
    write_atomic(page, index_page(root, claims))
    return page


def index_page(root: Path, claims: Claims = ()) -> str:
    """The page over all that lies below a root.

    Args:
        root: directory of runs, studies and fits.
        claims: what is known of published claims.

    Example:
        >>> Path("runs").mkdir()
        >>> "Nothing lies below" in index_page(Path("runs"))
        True
    """
    found = list(runs(root).records())
    sheets = [
        _under_way(root),
        study_sheet(root),
        claim_sheet(claims),
        pipeline_sheet(root),
        fit_sheet(root),
        run_index_sheet(found),
    ]
    sections = [section(sheet.title, table_of(sheet, links=_links(root, places))) for sheet, places in sheets]
    counts = {sheet.title: f"{len(sheet.rows):,}" for sheet, _ in sheets if sheet.rows}
    told = ", ".join(f"{count} {_one(title) if count == '1' else title.lower()}" for title, count in counts.items())
    states = Counter(record["status"] for record in found)
    return frame(
        kind="isoflop",
        title=f"Everything below {root.resolve().name or root}",
        headline=told[:1].upper() + told[1:] if told else "Nothing lies below this directory yet.",
        facts={clean(state).capitalize(): f"{count:,}" for state, count in states.items()} if len(states) > 1 else {},
        sections=sections,
        specs={},
        data={},
        footer="Written by isoflop report --all. Results that were negative, and runs that diverged, stay in the list.",
        search=any(sheet.rows for sheet, _ in sheets),
    )


Listed = tuple[Sheet, list[str]]
"""A table, and the directory below the root that each line is about ("": none)."""


def study_sheet(root: Path) -> Listed:
    """The studies, the newest first."""
    rows = list(studies(root, order="-created").records())
    lines = [
        (clean(r["path"]), clean(r["title"]), clean(r["verdict"]), _number(r["runs"]), moment(_text(r["created"])))
        for r in rows
    ]
    note = "How many times an arm's compute its baseline needs for the same quality: above 1 the arm saves."
    columns = ("study", "title", "multipliers on FLOPs", "runs", "made")
    return Sheet("Studies", columns, lines, frozenset({3}), note), [row["path"] for row in rows]


def _under_way(root: Path) -> Listed:
    found = unfinished(root)
    lines = [
        (name, clean(each.title), "running" if each.alive else "stopped", moment(each.started), str(len(each.runs)))
        for name, each in found.items()
    ]
    columns = ("study", "title", "state", "begun", "runs asked for")
    note = "isoflop watch NAME follows one; isoflop compare goes on with one that was stopped."
    return Sheet("Studies under way", columns, lines, frozenset({4}), note), list(found)


def claim_sheet(claims: Claims) -> Listed:
    """What others published, and what came out here."""
    lines = [
        tuple(clean(claim.get(key, "")) for key in ("name", "verdict", "statement", "published")) for claim in claims
    ]
    return Sheet("Claims", ("claim", "verdict here", "statement", "published"), lines), [""] * len(lines)


def pipeline_sheet(root: Path) -> Listed:
    """The pipelines with what became of their bars."""
    lines, places = [], []
    for place in sorted(root.glob(f"[!.]*/{PIPELINE}")):
        name = clean(place.parent.name)
        try:
            found: PipelineResult = read_json(place, PipelineResult)
            said = "; ".join(f"{clean(bar.says)}: {clean(bar.verdict)}" for bar in found.verdicts)
            lines.append((name, clean(found.title), ", ".join(map(clean, found.stages)), said))
        except DataError as error:
            lines.append((name, "", "", clean(f"unreadable: {error}")))
        places.append(place.parent.name)
    return Sheet("Pipelines", ("pipeline", "title", "stages", "bars"), lines), places


def fit_sheet(root: Path) -> Listed:
    """The fits of scaling laws."""
    rows = list(fits(root).records())
    lines = [
        (clean(row["name"]), clean(row["law"]), clean(row["source"]), _number(row["rows"]), clean(row["constants"]))
        for row in rows
    ]
    columns = ("fit", "law", "of", "rows", "constants")
    return Sheet("Fits", columns, lines, frozenset({3})), [row["path"] for row in rows]


def run_index_sheet(rows: Iterable[Mapping[str, Any]]) -> Listed:
    """The runs, the newest first; one that diverged has no value, and stays."""
    listed = sorted(rows, key=lambda row: _text(row["created"]), reverse=True)
    lines = []
    for row in listed:
        value = known(row["value"])
        scale = Scale(_text(row["unit"]), bool(row["higher_is_better"]))
        reached = "" if value is None else f"{scale.text(value, bound=bool(row['bound']))} {clean(scale.unit)}"
        flops = known(row["flops"])
        rate = known(row["lr"])
        lines.append(
            (
                clean(row["path"]),
                clean(row["status"]),
                _text(row["model"]),
                _text(row["optimizer"]) + ("" if rate is None else f" {rate:.3g}"),
                _number(row["seed"]),
                _text(row["budget"]),
                reached,
                "" if flops is None else amount("flops", flops),
                moment(_text(row["created"])),
                _text(row["reason"]),
            )
        )
    columns = ("run", "state", "model", "optimizer, rate", "seed", "budget", "value", "FLOPs", "made", "remark")
    return Sheet("Runs", columns, lines, frozenset({4, 6, 7})), [row["path"] for row in listed]


def _one(title: str) -> str:
    """A title's singular."""
    first, _, rest = title.lower().partition(" ")
    return {"studies": "study"}.get(first, first.removesuffix("s")) + (f" {rest}" if rest else "")


def _text(value: Any) -> str:
    """A text of the index; blank where there is none."""
    return clean(value) if isinstance(value, str) else ""


def _number(value: Any) -> str:
    number = known(value)
    return "" if number is None else f"{number:,.0f}"


def _links(root: Path, places: Sequence[str]) -> list[str]:
    """Where the lines lead: to the page of a directory, the live one of what is under way, or nowhere."""
    pages = ("report.html", "live.html")
    return [
        next((f"{place}/{page}" for page in pages if place and os.path.isfile(root / place / page)), "")
        for place in places
    ]

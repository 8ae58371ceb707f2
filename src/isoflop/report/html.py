"""The pieces of a page: sections, tables, figures, folded texts, and the frame around them; all text is escaped."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Any
from urllib.parse import quote

from ..core.files import jsonable
from . import render
from .sheets import Sheet
from .text import CONVENTION_LONG, clean, clean_lines, flatten

Specs = dict[str, dict[str, Any]]
SHORT = 160
"""Characters of a headline that is set large."""
WIDE = 5
"""Columns from which on a phone shows each row of a table as a block of its own."""
AGAIN = 5
"""Seconds after which a browser reads a live page again."""
FEW = 4
"""Sections up to which a page needs no list of them."""
CAPTIONS = {
    "quality": "Each point is one run of one seed, each bar the mean over seeds, the bold line the baseline's ladder; "
    "faint lines are the way there. A dashed line is the multiplier on FLOPs: from the arm to where the baseline "
    "reaches the same quality (an open arrow: not even at the end of its ladder).",
    "multipliers": "Points with their intervals; thin ticks are single seeds; open arrows are bounds, where the ladder "
    "ends. Left of 1 the arm needs more than the baseline.",
    "learning": "Lines are means over seeds, bands go from the worst seed to the best. A schedule that decays makes a "
    "run's last part steep: compare ends, not ways.",
    "by_rung": "Bars are intervals; triangles are bounds, where the baseline's ladder ends.",
    "others": "The same on the other axes, and with tuning charged (all-in).",
    "bill": "What each arm's runs spent, each run once; all that tuning runs trained counts as tuning. "
    "Ancestors are what had been spent on models that the runs begin with or use.",
    "tuning": "Rings mark what was chosen, crosses what diverged. Solid lines are the lowest rung; dashed ones a "
    "higher rung, where the baseline is tuned again.",
    "fit": "Each dot is a row of the table; the line or tick what the law gives there, with its interval.",
    "residuals": "Structure here is what the law does not describe.",
    "ahead": "From the dearest row on, parameters and tokens (or compute) scaled up together. The intervals include "
    "the law's own error, measured by extrapolating inside the table.",
    "isoflops": "Loss against size at equal compute 6 N D. Diamonds are the optima, joined by the dashed line; dots "
    "are rows within 6 % of a curve's compute.",
    "frontier": "The best run at each compute, with the prediction interval of its loss; the diamond is the plan.",
    "slices": "Loss against size at equal compute. Diamonds: the plan, and twice and half its size at equal compute.",
    "forecasts": "The best law fitted to the rows below a cut and asked for those above it. Hollow: the observation "
    "lay outside the forecast's interval.",
    "distances": "How far each model has moved, relative to the base's own size.",
    "interference": "Sign conflicts: of the elements that several models change. Cancelled: of the task vectors' "
    "summed magnitude, what is gone when they are added.",
    "bits_per_weight": "Each point is one run of one seed.",
    "inference_flops": "Each point is one run of one seed.",
    "density": "Of the weights as they are used, at the last evaluation. Rounding makes zeros too.",
    "blocks": "A block is collapsed if all its numbers become alike, saturated if its largest one is cut.",
    "lengths": "Each bar holds the documents of between a power of two of characters and the next.",
    "load": "Each tick is an expert; the wide bar is an even load. Of the step before the last evaluation.",
    "busiest": "In multiples of an even load, at every evaluation; 1, the dashed line, is even.",
    "measured": "Each point is one measurement, of one seed or one turn; lines join the medians.",
    "loss": "Every recorded step faintly; boldly the mean of the steps within 10 % of its compute.",
}

SEARCH = (
    '<p><label for="filter">Search in all lines</label></p>\n'
    '<p><input type="search" id="filter" data-filter="found" autocomplete="off"></p>\n'
    '<p class="note" id="found" role="status"></p>'
)


def frame(
    *,
    kind: str,
    title: str,
    headline: str,
    facts: dict[str, str],
    sections: Sequence[str],
    specs: Specs,
    data: Any,
    footer: str = CONVENTION_LONG,
    refresh: int = 0,
    search: bool = False,
) -> str:
    """A whole page.

    Args:
        kind: what it is about, in two words.
        title: its title.
        headline: what it says, a line for each finding.
        facts: label -> text; those without text are left out.
        sections: their HTML, as ``section`` makes it.
        specs: the charts' specifications by name.
        data: what the page's download holds.
        footer: what stands at its end.
        refresh: seconds after which a browser reads the page again; 0: never.
        search: with a field that leaves only the lines of its tables that hold all words.
    """
    template = files("isoflop.report").joinpath("page.html").read_text(encoding="utf-8")
    vega = render.vega_script() if specs else ""
    own = template.rpartition("<script>")[2].partition("</script>")[0].replace("$$", "$")
    lines = headline.splitlines()
    size = "headline" if len(lines) <= 2 and len(headline) <= SHORT else "headline many"
    entries = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in facts.items() if v)
    shown = [section for section in sections if section]
    return Template(template).substitute(
        shape="list" if search else "report",
        script_hashes=f"{_hash(vega)} {_hash(own)}",
        kind=escape(kind),
        title=escape(clean(title)),
        headline="\n".join(f'<p class="{size}">{escape(clean(line))}</p>' for line in lines),
        facts=(f'<dl class="facts">{entries}</dl>' if entries else "") + (_refresh(refresh) if refresh else ""),
        contents=_contents(shown),
        sections="\n".join([SEARCH, *shown] if search else shown),
        footer=escape(footer),
        charts=_embedded({name: render.for_page(spec) for name, spec in specs.items()}),
        data=_embedded(data),
        vega=vega,
    )


def _contents(sections: Sequence[str]) -> str:
    """Links to the sections, where there are more than a screen shows."""
    if len(sections) <= FEW:
        return ""
    found = re.findall(r'<h2 id="([^"]*)">(.*?)</h2>', "\n".join(sections))
    links = "".join(f'<li><a href="#{name}">{heading}</a></li>' for name, heading in found)
    return f'<nav aria-label="On this page"><ul>{links}</ul></nav>'


def _refresh(seconds: int) -> str:
    """The button with which a reader stops a live page; the page's script reads it again."""
    words = f"Stop reading this page again every {seconds} seconds"
    return f'\n<p><button type="button" data-refresh="{seconds}">{words}</button></p>'


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _embedded(value: Any) -> str:
    """JSON that can stand inside a script element: no "<", so no end or comment; null where no number is."""
    text = json.dumps(jsonable(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c")


def section(heading: str, *blocks: str) -> str:
    """A section; nothing where all its blocks are empty."""
    body = "\n".join(block for block in blocks if block)
    name = f"on-{re.sub(r'[^a-z0-9]+', '-', heading.lower()).strip('-')}"
    return f'<section>\n<h2 id="{name}">{escape(heading)}</h2>\n{body}\n</section>' if body else ""


def titled(sheet: Sheet) -> tuple[str, str]:
    """A sheet as the arguments of ``section``."""
    return sheet.title, table_of(sheet)


def figure(name: str, *, caption: bool = True) -> str:
    """The place of a chart with its caption; the page's script draws it and adds what it can be saved as."""
    text = CAPTIONS.get(name, CAPTIONS.get(name.partition("_")[0], "")) if caption else ""
    below = f"<figcaption>{escape(text)}</figcaption>" if text else ""
    return f'<figure><div class="chart" data-chart="{escape(name)}"></div>{below}</figure>'


def table_of(sheet: Sheet, heading: str = "", links: Sequence[str] = ()) -> str:
    """A sheet as a table that a phone can show; "" if it has no rows.

    Args:
        sheet: what it shows.
        heading: one of its own, if it has one.
        links: where the first cell of each row leads to, "" for nowhere.
    """
    if not sheet.rows:
        return ""
    wide = len(sheet.columns) >= WIDE
    labels = [escape(column) or "remark" for column in sheet.columns]
    right = [' class="right"' if index in sheet.right else "" for index in range(len(labels))]
    head = "".join(f'<th scope="col"{mark}>{label}</th>' for mark, label in zip(right, labels, strict=True))
    named = [f' data-label="{label}"' if wide else "" for label in labels]
    lines = []
    for row, link in zip(sheet.rows, links or [""] * len(sheet.rows), strict=True):
        first, *rest = (escape(cell) for cell in row)
        first = f'<a href="{escape(quote(link))}">{first}</a>' if link else first
        cells = "".join(
            f"<td{mark}{name}>{cell}</td>" for mark, name, cell in zip(right[1:], named[1:], rest, strict=True)
        )
        total = ' class="total"' if row[0] == "total" else ""
        lines.append(f'<tr{total}><th scope="row"{right[0]}>{first}</th>{cells}</tr>')
    above = f"<h3>{escape(heading)}</h3>\n" if heading else ""
    below = f'\n<p class="note">{escape(sheet.note)}</p>' if sheet.note else ""
    body = "\n".join(lines)
    kind = ' class="wide"' if wide else ""
    table = f"<table{kind}><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table>"
    region = f'<div class="scroll" role="region" aria-label="{escape(heading or sheet.title)}" tabindex="0">'
    return f"{above}{region}{table}</div>{below}"


def folded_table(sheet: Sheet, summary: str) -> str:
    """A sheet that is shown when it is asked for."""
    return f"<details><summary>{escape(summary)}</summary>\n{table_of(sheet)}\n</details>" if sheet.rows else ""


def folded(name: str, text: str) -> str:
    """A text of several lines that is shown when it is asked for."""
    if not text:
        return ""
    return f"<details><summary>{escape(clean(name))}</summary>{verbatim(text)}</details>"


def verbatim(text: str) -> str:
    """A text as it was written."""
    return f'<pre tabindex="0">{escape(clean_lines(text))}</pre>' if text else ""


def folded_pairs(name: str, tree: dict[str, Any]) -> str:
    """The leaves of a tree, shown when they are asked for."""
    pairs = pairs_of(flatten(tree))
    return f"<details><summary>{escape(name)}</summary>\n{pairs}\n</details>" if pairs else ""


def bullets(lines: Iterable[str]) -> str:
    """A list of sentences."""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<ul class="notes">{items}</ul>' if items else ""


def pairs_of(pairs: Sequence[tuple[str, str]]) -> str:
    """A list of names and what they are."""
    entries = "".join(f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in pairs if key)
    return f'<dl class="pairs">{entries}</dl>' if entries else ""


def download(name: str, words: str) -> str:
    """A button that saves the page's data as a file."""
    return f'<p><button type="button" data-download="{escape(name)}">{escape(words)}</button></p>'

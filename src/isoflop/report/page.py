"""The report page: one HTML file that shows a study, run or fit anywhere, offline, for as long as browsers read HTML.

Whatever comes from outside is escaped; besides, the page's own policy lets no script run but the two written into it,
and loads nothing from anywhere.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from ..core.errors import UsageError
from ..core.files import jsonable, write_atomic
from ..core.reading import user_path
from ..store.fits import FIT
from ..store.inspections import INSPECTION, Inspection
from ..store.plans import StoredPlan
from ..store.results import STUDY, StudyResult, abridged
from . import charts, fit_charts, inspections, plans, render
from .fits import FitRecord
from .runs import RunRecord
from .sheets import (
    Sheet,
    ancestor_sheet,
    asked,
    bill_sheet,
    environment_sheet,
    equal_sheet,
    ladder,
    multiplier_sheet,
    refusal_lines,
    run_sheet,
    told_apart,
    tuning_sheet,
)
from .text import CONVENTION_LONG, amount, axis_label, clean, clean_lines, flatten, moment

Specs = dict[str, dict[str, Any]]
SHORT = 160
"""Characters of a headline that is set large."""
CAPTIONS = {
    "quality": "Each point is one run of one seed, each bar the mean over seeds, the bold line the baseline's ladder; "
    "faint lines are the way there. A dashed line is the multiplier on FLOPs: from the arm to where the baseline "
    "reaches the same quality (an open arrow: not even at the end of its ladder).",
    "multipliers": "Points with their intervals; thin ticks are single seeds; open arrows are bounds, where the ladder "
    "ends. Left of 1 the arm needs more than the baseline.",
    "others": "The same on the other axes, and with tuning charged (all-in).",
    "bill": "What each arm's runs spent, each run once; all that tuning runs trained counts as tuning.",
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
    "loss": "Every recorded step faintly; boldly the mean of the steps within 10 % of its compute.",
}


def write_report(directory: Path) -> Path:
    """Write ``report.html`` and ``charts/*.svg, *.png`` into the directory of a study, a run or a fit; the page's path.

    Raises:
        UsageError: the directory holds none of them.
        DataError: what it holds is broken.
        StorageError: the disk refused.

    Example, with ``study`` a tiny study, and ``executor`` one that computes qualities instead of training:
        >>> from isoflop.lab.compare import compare
        >>> result = compare(study, "runs", executor=executor, corpus={})
        >>> study_page(result, {}).startswith("<!doctype html>")
        True
    """
    directory = user_path(directory)
    if os.path.lexists(directory / STUDY):
        result = StudyResult.read(directory / STUDY)
        specs = _specifications(charts.figures(result))
        html = study_page(result, specs)
    elif os.path.lexists(directory / "resolved.json"):
        record = RunRecord.read(directory)
        specs = _specifications(record.figures())
        html = run_page(record, specs)
    elif os.path.lexists(directory / FIT):
        fit = FitRecord.read(directory)
        specs = _specifications(fit_charts.figures(fit))
        html = fit_page(fit, specs)
    elif os.path.lexists(directory / INSPECTION):
        found = Inspection.read(directory / INSPECTION)
        specs = _specifications(inspections.figures(found))
        html = inspection_page(found, specs)
    else:
        where = str(directory)
        raise UsageError("holds neither a study, a run nor a fit", where=where, fix="name a directory under --root")
    for name, spec in specs.items():
        svg = render.to_svg(spec)
        write_atomic(directory / "charts" / f"{name}.svg", svg)
        write_atomic(directory / "charts" / f"{name}.png", render.to_png(svg))
    page = directory / "report.html"
    write_atomic(page, html)
    return page


def _specifications(figures: charts.Figures) -> Specs:
    return {name: render.specification(chart) for name, chart in figures.items()}


def study_page(result: StudyResult, specs: Specs) -> str:
    """The page of a study, with its charts' specifications by name."""
    drawn = {name: _figure(name) for name in specs}
    notes = [*refusal_lines(result), *(clean(note) for note in result.notes)]
    tuning = [html for name, html in drawn.items() if name.startswith("tuning")]
    first, others = asked(result), asked(result, others=True)
    sheets = {"multipliers": multiplier_sheet(result, first), "tuning": tuning_sheet(result), "runs": run_sheet(result)}
    more = _table(multiplier_sheet(result, others)) if others else ""
    recipes = [_folded(arm, text) for arm, text in result.recipes.items()]
    told = [
        {key: abridged(v) if isinstance(v, list) else v for key, v in e.items()} for e in result.environments.values()
    ]
    made = [_folded_pairs(f"Environment {number}", tree) for number, tree in enumerate(told, 1)]
    made = [_table(environment_sheet(result), "What made the runs"), *made] if made else []
    sections = [
        _section(*_titled(equal_sheet(result))),
        _section("Quality against compute", drawn.get("quality", "")),
        _section(sheets["multipliers"].title, drawn.get("multipliers", ""), _table(sheets["multipliers"])),
        _section("Notes", _bullets(notes)),
        _section("Tuning", *tuning, _table(sheets["tuning"])),
        _section("Bill", drawn.get("bill", ""), _table(bill_sheet(result.bill), "The whole study, by phase.")),
        _section(*_titled(ancestor_sheet(result.ancestors))),
        _section("Other axes, and with tuning charged", drawn.get("others", ""), more),
        _section("Corpus", _pairs(flatten(result.corpus))),
        _section("Recipes", _folded("study.toml: isoflop compare makes it again", result.definition), *recipes),
        _section("Environment", *made, _folded_pairs("The process that wrote this", result.environment)),
        _section(
            "Data", _folded_table(sheets["runs"]), _download(f"{clean(result.name)}.json", "Download the whole result")
        ),
    ]
    seeds = {run.seed for run in result.runs if run.role == "evaluation"}
    facts = {
        "Study": told_apart(result),
        "Baseline": clean(result.baseline),
        "Arms": ", ".join(clean(arm) for arm in result.arms if arm != result.baseline),
        "Ladder": ladder(result),
        "Seeds": str(len(seeds)),
        "Runs": str(len(result.runs)),
        "Made": moment(result.created),
    }
    return _page(
        kind="isoflop study",
        title=result.title or result.name,
        headline=result.headline,
        facts=facts,
        sections=sections,
        specs=specs,
        data=result.model_dump(mode="json"),
    )


def run_page(record: RunRecord, specs: Specs) -> str:
    """The page of a single run, with its charts' specifications by name."""
    drawn = {name: _figure(name, caption=name != "quality") for name in specs}
    spent = {axis: record.result[axis] for axis in ("flops", "tokens", "seconds") if axis in record.result}
    value = record.result.get("value")
    resolved = json.dumps(record.resolved, indent=2, ensure_ascii=False)
    known = isinstance(value, int | float)
    reached = f"{record.text(value)} {record.scale.unit}" if known else f"{record.state}, no value yet"
    facts = {"state": record.state, **{axis_label(axis): amount(axis, v) for axis, v in spent.items()}}
    sections = [
        _section("Held-out quality", drawn.get("quality", ""), _table(record.evaluation_sheet())),
        _section("Training loss", drawn.get("loss", "")),
        _section("Ledger", _table(bill_sheet(record.ledger))),
        _section(*_titled(ancestor_sheet(record.ancestors))),
        _section("Result", _pairs(flatten(record.result))),
        _section("Recipe", _folded("as given", record.recipe), _folded("with every default and override", resolved)),
        _section("Environment", _pairs(flatten(record.environment))),
        _section("Data", _download(f"{record.name}.json", "Download the run's records")),
    ]
    data = {
        "result": record.result,
        "ledger": record.ledger,
        "ancestors": {key: ancestor.model_dump() for key, ancestor in record.ancestors.items()},
        "evaluations": record.evaluations.records(),
        "steps": record.steps.records(),
    }
    return _page(
        kind="isoflop run",
        title=record.name,
        headline=f"{reached}. {record.message}" if record.message else reached,
        facts=facts,
        sections=sections,
        specs=specs,
        data=data,
    )


def fit_page(record: FitRecord, specs: Specs) -> str:
    """The page of a law's fit, with its charts' specifications by name."""
    drawn = {name: _figure(name) for name in specs}
    said = [clean(line) for line in (*record.fit.warnings, *record.unidentified)]
    scores = record.score_sheet()
    sections = [
        _section("What to know before using it", _bullets(said)),
        _section("Fit", drawn.get("fit", "")),
        _section("Constants", _table(record.constant_sheet())),
        _section("Residuals", drawn.get("residuals", "")),
        _section("Extrapolation", drawn.get("ahead", ""), _table(record.ahead_sheet())),
        _section("IsoFLOP curves", drawn.get("isoflops", ""), _table(record.optimum_sheet())),
        _section(scores.title, _table(scores), drawn.get("forecasts", "")),
        _section(*_titled(record.sensitivity_sheet())),
        _section("Settings", _pairs(flatten(record.fit.settings))),
        _section("Data", _folded("The report as text", record.text), _download("fit.json", "Download the whole fit")),
    ]
    law = f"{record.law}: {record.equation}" if record.equation else record.law
    return _page(
        kind="isoflop fit",
        title=f"{law}, fitted to {record.source}" if record.source else law,
        headline=record.headline(),
        facts=record.facts(),
        sections=sections,
        specs=specs,
        data=record.model_dump(mode="json"),
        footer="FLOPs are the table's own: its column C, or 6 N D where the law has no other measure of compute.",
    )


def inspection_page(found: Inspection, specs: Specs) -> str:
    """The page of models beside their base, with its charts' specifications by name."""
    drawn = {name: _figure(name) for name in specs}
    tensors = inspections.tensor_sheet(found)
    sections = [
        _section("Distance from the base", drawn.get("distances", "")),
        _section("Interference", drawn.get("interference", ""), _table(inspections.layer_sheet(found), "By layer")),
        *([_section(*_titled(tensors))] if tensors else []),
        _section("Data", _download("inspection.json", "Download every tensor's facts")),
    ]
    return _page(
        kind="isoflop merge inspect",
        title=f"{len(found.models)} models beside {found.base}",
        headline=inspections.headline(found),
        facts={"Base": clean(found.base), "Models": ", ".join(clean(model) for model in found.models)},
        sections=sections,
        specs=specs,
        data=found.model_dump(mode="json"),
        footer="Task vectors are model - base; everything is computed in fp32 and summed in float64.",
    )


def plan_page(found: StoredPlan, specs: Specs) -> str:
    """The page of a plan, with its charts' specifications by name."""
    drawn = {name: _figure(name) for name in specs}
    answers = [_section(title, _table(sheet), _bullets(said)) for title, sheet, said in plans.answer_sheets(found)]
    sections = [
        _section(*_titled(plans.run_sheet(found))),
        _section("The frontier", drawn.get("frontier", "")),
        _section("IsoFLOP slices", drawn.get("slices", "")),
        *answers,
        _section("Data", _download("plan.json", "Download the whole plan")),
    ]
    return _page(
        kind="isoflop plan",
        title="The planned run",
        headline=plans.headline(found),
        facts={"Law": clean(found.law), "Rows": f"{len(found.points):,}", "Intervals": f"{100 * found.level:g} %"},
        sections=sections,
        specs=specs,
        data=found.model_dump(mode="json"),
        footer="FLOPs are as the fitted table counts them: 6 N D, or its own column C.",
    )


def write_plan(found: StoredPlan, page: Path) -> None:
    """Write the page of a plan.

    Raises:
        StorageError: the disk refused.
    """
    write_atomic(page, plan_page(found, _specifications(plans.figures(found))))


# ---------------------------------------------------------------- the pieces of a page


def _page(
    *,
    kind: str,
    title: str,
    headline: str,
    facts: dict[str, str],
    sections: Sequence[str],
    specs: Specs,
    data: Any,
    footer: str = CONVENTION_LONG,
) -> str:
    template = files("isoflop.report").joinpath("page.html").read_text(encoding="utf-8")
    vega = render.vega_script() if specs else ""
    own = template.rpartition("<script>")[2].partition("</script>")[0]
    lines = headline.splitlines()
    size = "headline" if len(lines) <= 2 and len(headline) <= SHORT else "headline many"
    entries = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in facts.items() if v)
    return Template(template).substitute(
        script_hashes=f"{_hash(vega)} {_hash(own)}",
        kind=escape(kind),
        title=escape(clean(title)),
        headline="\n".join(f'<p class="{size}">{escape(clean(line))}</p>' for line in lines),
        facts=f'<dl class="facts">{entries}</dl>',
        sections="\n".join(section for section in sections if section),
        footer=escape(footer),
        charts=_json({name: render.for_page(spec) for name, spec in specs.items()}),
        data=_json(data),
        vega=vega,
    )


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _json(value: Any) -> str:
    """JSON that can stand inside a script element: no "<", so no end or comment; null where no number is."""
    text = json.dumps(jsonable(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c")


def _section(heading: str, *blocks: str) -> str:
    body = "\n".join(block for block in blocks if block)
    return f"<section>\n<h2>{escape(heading)}</h2>\n{body}\n</section>" if body else ""


def _titled(sheet: Sheet) -> tuple[str, str]:
    return sheet.title, _table(sheet)


def _figure(name: str, *, caption: bool = True) -> str:
    text = CAPTIONS.get("tuning" if name.startswith("tuning") else name, "") if caption else ""
    below = f"<figcaption>{escape(text)}</figcaption>" if text else ""
    return f'<figure><div class="chart" data-chart="{escape(name)}"></div>{below}</figure>'


def _table(sheet: Sheet, heading: str = "") -> str:
    if not sheet.rows:
        return ""
    right = [' class="right"' if index in sheet.right else "" for index in range(len(sheet.columns))]
    head = "".join(
        f'<th scope="col"{mark}>{escape(cell)}</th>' for mark, cell in zip(right, sheet.columns, strict=True)
    )
    lines = []
    for row in sheet.rows:
        cells = "".join(f"<td{mark}>{escape(cell)}</td>" for mark, cell in zip(right, row, strict=True))
        lines.append(f'<tr class="total">{cells}</tr>' if row[0] == "total" else f"<tr>{cells}</tr>")
    above = f"<h3>{escape(heading)}</h3>\n" if heading else ""
    below = f'\n<p class="note">{escape(sheet.note)}</p>' if sheet.note else ""
    body = "\n".join(lines)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table>"
    return f'{above}<div class="scroll">{table}</div>{below}'


def _folded_table(sheet: Sheet) -> str:
    summary = f"<summary>All {len(sheet.rows)} runs</summary>"
    return f"<details>{summary}\n{_table(sheet)}\n</details>" if sheet.rows else ""


def _folded(name: str, text: str) -> str:
    if not text:
        return ""
    return f"<details><summary>{escape(clean(name))}</summary><pre>{escape(clean_lines(text))}</pre></details>"


def _folded_pairs(name: str, tree: dict[str, Any]) -> str:
    pairs = _pairs(flatten(tree))
    return f"<details><summary>{escape(name)}</summary>\n{pairs}\n</details>" if pairs else ""


def _bullets(lines: Iterable[str]) -> str:
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<ul class="notes">{items}</ul>' if items else ""


def _pairs(pairs: Sequence[tuple[str, str]]) -> str:
    entries = "".join(f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in pairs if key)
    return f'<dl class="pairs">{entries}</dl>' if entries else ""


def _download(name: str, words: str) -> str:
    return f'<p><button type="button" data-download="{escape(name)}">{escape(words)}</button></p>'

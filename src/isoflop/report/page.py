"""The report page: one HTML file that shows what was made anywhere, offline, for as long as browsers read HTML.

Whatever comes from outside is escaped; besides, the page's own policy lets no script run but the two written into it,
and loads nothing from anywhere.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from ..core.errors import UsageError
from ..core.files import write_atomic
from ..core.reading import read_json, user_path
from ..store.fits import FIT
from ..store.inspections import INSPECTION, Inspection
from ..store.measured import MEASURED, TARGETS, MeasuredResult
from ..store.pipelines import PIPELINE, PipelineResult
from ..store.plans import StoredPlan
from ..store.results import STUDY, StudyResult
from . import charts, fit_charts, inspections, loads, measured, neighbours, plans, render
from .fits import FitRecord
from .footprints import in_use, whole_bill_sheet
from .html import (
    AGAIN,
    Specs,
    bullets,
    download,
    figure,
    folded,
    frame,
    pairs_of,
    section,
    table_of,
    titled,
)
from .pipelines import pipeline_page
from .runs import RunRecord
from .sheets import ancestor_sheet, bill_sheet
from .study_page import study_page
from .text import amount, axis_label, clean, flatten

__all__ = ["fit_page", "inspection_page", "plan_page", "run_page", "study_page", "write_plan", "write_report"]


def write_report(directory: Path) -> Path:
    """Write ``report.html`` and ``charts/*.svg, *.png, *.csv`` beside what a directory holds; the page's path.

    What a script measured there (``measured.json``, ``targets.json``) is drawn on the page, or is a page of its own.

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
    found = next((file for file in (MEASURED, TARGETS) if os.path.lexists(directory / file)), None)
    beside = None if found is None else read_json(directory / found, MeasuredResult)
    families = {} if beside is None else measured.families(beside)
    if os.path.lexists(directory / STUDY):
        result = StudyResult.read(directory / STUDY)
        families |= neighbours.of_study(result, directory)
        specs = render.specifications(charts.figures(result) | in_use(result) | measured.figures(families))
        html = study_page(result, specs, more=measured.sections(families))
    elif os.path.lexists(directory / "resolved.json"):
        record = RunRecord.read(directory)
        families |= neighbours.of_run(directory)
        specs = render.specifications(record.figures() | measured.figures(families))
        html = run_page(record, specs, more=measured.sections(families))
    elif os.path.lexists(directory / FIT):
        fit = FitRecord.read(directory)
        specs = render.specifications(fit_charts.figures(fit))
        html = fit_page(fit, specs)
    elif os.path.lexists(directory / INSPECTION):
        inspected = Inspection.read(directory / INSPECTION)
        specs = render.specifications(inspections.figures(inspected))
        html = inspection_page(inspected, specs)
    elif os.path.lexists(directory / PIPELINE):
        specs = render.specifications(measured.figures(families))
        pipeline = read_json(directory / PIPELINE, PipelineResult)
        html = pipeline_page(pipeline, specs, measured.sections(families))
    elif beside is not None:
        specs = render.specifications(measured.figures(families))
        html = measured.page(beside, specs)
    else:
        what = "holds neither a study, a pipeline, a run nor a fit"
        raise UsageError(what, where=str(directory), fix="name a directory under --root")
    for name, spec in specs.items():
        svg = render.to_svg(spec)
        write_atomic(directory / "charts" / f"{name}.svg", svg)
        write_atomic(directory / "charts" / f"{name}.png", render.to_png(svg))
        write_atomic(directory / "charts" / f"{name}.csv", render.to_csv(spec))
    page = directory / "report.html"
    write_atomic(page, html)
    return page


def run_page(record: RunRecord, specs: Specs, *, more: Sequence[str] = (), refresh: bool = False) -> str:
    """The page of a single run, with its charts' specifications by name.

    Args:
        record: the run.
        specs: of its charts.
        more: further sections.
        refresh: a browser reads it again.
    """
    drawn = {name: figure(name, caption=name != "quality") for name in specs}
    spent = {axis: record.result[axis] for axis in ("flops", "tokens", "seconds") if axis in record.result}
    value = record.result.get("value")
    resolved = json.dumps(record.resolved, indent=2, ensure_ascii=False)
    known = isinstance(value, int | float)
    reached = f"{record.text(value)} {record.scale.unit}" if known else f"{record.state}, no value yet"
    facts = {"state": record.state, **{axis_label(axis): amount(axis, v) for axis, v in spent.items()}}
    load = loads.load_sheet(record.told)
    sections = [
        section("Held-out quality", drawn.get("quality", ""), table_of(record.evaluation_sheet())),
        section("Training loss", drawn.get("loss", "")),
        section("Density by layer", drawn.get("density", "")),
        section("Damaged blocks", drawn.get("blocks", "")),
        section(load.title, drawn.get("load", ""), drawn.get("busiest", ""), table_of(load)) if load.rows else "",
        *more,
        section("Ledger", table_of(bill_sheet(record.ledger))),
        section(*titled(ancestor_sheet(record.ancestors))),
        section(*titled(whole_bill_sheet(record.ledger, record.ancestors))),
        section("Result", pairs_of(flatten(record.result))),
        section("Recipe", folded("as given", record.recipe), folded("with every default and override", resolved)),
        section("Environment", pairs_of(flatten(record.environment))),
        section("Data", download(f"{record.name}.json", "Download the run's records")),
    ]
    data = {
        "result": record.result,
        "ledger": record.ledger,
        "ancestors": {key: ancestor.model_dump() for key, ancestor in record.ancestors.items()},
        "evaluations": record.evaluations.records(),
        "steps": record.steps.records(),
    }
    return frame(
        kind="isoflop run",
        title=record.name,
        headline=f"{reached}. {record.message}" if record.message else reached,
        facts=facts,
        sections=sections,
        specs=specs,
        data=data,
        refresh=AGAIN if refresh else 0,
    )


def fit_page(record: FitRecord, specs: Specs) -> str:
    """The page of a law's fit, with its charts' specifications by name."""
    drawn = {name: figure(name) for name in specs}
    said = [clean(line) for line in (*record.fit.warnings, *record.unidentified)]
    scores = record.score_sheet()
    sections = [
        section("What to know before using it", bullets(said)),
        section("Fit", drawn.get("fit", "")),
        section("Constants", table_of(record.constant_sheet())),
        section("Residuals", drawn.get("residuals", "")),
        section("Extrapolation", drawn.get("ahead", ""), table_of(record.ahead_sheet())),
        section("IsoFLOP curves", drawn.get("isoflops", ""), table_of(record.optimum_sheet())),
        section(scores.title, table_of(scores), drawn.get("forecasts", "")),
        section(*titled(record.sensitivity_sheet())),
        section("Settings", pairs_of(flatten(record.fit.settings))),
        section("Data", folded("The report as text", record.text), download("fit.json", "Download the whole fit")),
    ]
    law = f"{record.law}: {record.equation}" if record.equation else record.law
    return frame(
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
    drawn = {name: figure(name) for name in specs}
    tensors = inspections.tensor_sheet(found)
    sections = [
        section("Distance from the base", drawn.get("distances", "")),
        section("Interference", drawn.get("interference", ""), table_of(inspections.layer_sheet(found), "By layer")),
        *([section(*titled(tensors))] if tensors else []),
        section("Data", download("inspection.json", "Download every tensor's facts")),
    ]
    return frame(
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
    drawn = {name: figure(name) for name in specs}
    answers = [section(title, table_of(sheet), bullets(said)) for title, sheet, said in plans.answer_sheets(found)]
    sections = [
        section(*titled(plans.run_sheet(found))),
        section("The frontier", drawn.get("frontier", "")),
        section("IsoFLOP slices", drawn.get("slices", "")),
        *answers,
        section("Data", download("plan.json", "Download the whole plan")),
    ]
    return frame(
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
    write_atomic(page, plan_page(found, render.specifications(plans.figures(found))))

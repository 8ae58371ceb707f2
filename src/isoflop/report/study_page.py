"""The page of a study: what a reader asks first stands first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..store.results import StudyResult, abridged
from .footprints import AXES_IN_USE, in_use_sheet, whole_bill_sheet
from .html import (
    Specs,
    bullets,
    download,
    figure,
    folded,
    folded_pairs,
    folded_table,
    frame,
    pairs_of,
    section,
    table_of,
    titled,
    verbatim,
)
from .ladders import noise_sheet
from .sheets import (
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
from .text import clean, flatten, moment

OTHERS = "Other axes, and with tuning charged"


def study_page(result: StudyResult, specs: Specs, *, more: Sequence[str] = ()) -> str:
    """The page of a study, with its charts' specifications by name.

    Args:
        result: the study.
        specs: of its charts.
        more: further sections.

    Example, with ``study`` a tiny study, and ``executor`` one that computes qualities instead of training:
        >>> from isoflop.lab.compare import compare
        >>> result = compare(study, "runs", executor=executor, corpus={})
        >>> "isoflop compare study.toml" in study_page(result, {})
        True
    """
    drawn = {name: figure(name) for name in specs}
    notes = [*refusal_lines(result), *(clean(note) for note in result.notes)]
    tuning = [html for name, html in drawn.items() if name.startswith("tuning")]
    first, others = multiplier_sheet(result, asked(result)), asked(result, others=True)
    rest = replace(multiplier_sheet(result, others), title=OTHERS)
    runs, used = run_sheet(result), in_use_sheet(result)
    sections = [
        section(*titled(equal_sheet(result))),
        section("Quality against compute", drawn.get("quality", "")),
        section(first.title, drawn.get("multipliers", ""), table_of(first)),
        section("Multiplier against budget", drawn.get("by_rung", "")),
        section("Learning curves", drawn.get("learning", "")),
        section(used.title, *(drawn.get(axis, "") for axis in AXES_IN_USE), table_of(used)) if used.rows else "",
        *more,
        section("Notes", bullets(notes)),
        section("Tuning", *tuning, table_of(tuning_sheet(result))),
        section("Bill", drawn.get("bill", ""), table_of(bill_sheet(result.bill), "The whole study, by phase")),
        section(*titled(ancestor_sheet(result.ancestors))),
        section(*titled(whole_bill_sheet(result.bill, result.ancestors))),
        section(*titled(noise_sheet(result))),
        section(OTHERS, drawn.get("others", ""), folded_table(rest, f"{len(rest.rows)} multipliers")),
        section("Corpus", pairs_of(flatten(result.corpus))),
        section("Make it again", *_again(result)),
        section("Environment", *_environments(result)),
        section(
            "Data",
            folded_table(runs, f"All {len(runs.rows)} runs"),
            download(f"{clean(result.name)}.json", "Download the whole result"),
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
    return frame(
        kind="isoflop study",
        title=result.title or result.name,
        headline=result.headline,
        facts=facts,
        sections=sections,
        specs=specs,
        data=result.model_dump(mode="json"),
    )


def _again(result: StudyResult) -> list[str]:
    """The command that makes the study again, what it reads, and the recipes that come of it."""
    if not result.definition:
        return [folded(arm, text) for arm, text in result.recipes.items()]
    workers = result.environment.get("workers")
    count = f" --workers {workers}" if isinstance(workers, int) else ""
    made = [each for each in result.environments.values() if isinstance(each.get("commit"), str)]
    commits = {(each["commit"], bool(each.get("dirty"))) for each in made}
    lines = [f"isoflop compare study.toml{count}"]
    if len(commits) == 1 and not (only := next(iter(commits)))[1]:
        lines.insert(0, f"git checkout {clean(only[0])[:12]}  # of isoflop, which made every run here")
    return [
        verbatim("\n".join(lines)),
        folded("study.toml, which lies beside this page", result.definition),
        *(folded(f"recipe of {arm}", text) for arm, text in result.recipes.items()),
    ]


def _environments(result: StudyResult) -> list[str]:
    """What made the runs, each distinct environment in full, and the process that wrote the result."""
    told = [
        {key: abridged(v) if isinstance(v, list) else v for key, v in each.items()}
        for each in result.environments.values()
    ]
    made = [folded_pairs(f"Environment {number}", tree) for number, tree in enumerate(told, 1)]
    made = [table_of(environment_sheet(result), "What made the runs"), *made] if made else []
    return [*made, folded_pairs("The process that wrote this", result.environment)]

"""The tables of a report as plain text cells, drawn alike by the terminal and the page."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..core.scale import Scale
from ..core.significance import LEVEL, half_width
from ..store.records import Ancestor
from ..store.results import MultiplierRow, Point, RunRow, StudyResult, abridged, decimals
from .text import AXES, NOTHING, TIMES, amount, axis_label, bound, clean, digits, probability, signed, times

TOLERANCE = 0.01
"""Largest relative difference in cost that still counts as equal."""


@dataclass(frozen=True)
class Sheet:
    """A table: ``rows`` of as many cells as ``columns``; those in ``right`` (indices) are aligned right.

    Example:
        >>> Sheet("bill", ("phase", "FLOPs"), [("train", "1.2 T")], right=frozenset({1})).rows
        [('train', '1.2 T')]
    """

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    right: frozenset[int] = frozenset()
    note: str = ""


def told_apart(result: StudyResult) -> str:
    """The study's name, with the hash that tells edited ones apart where its definition is known."""
    return clean(result.label if result.definition else result.name)


def arms_of(result: StudyResult) -> list[str]:
    """The baseline, then the other arms, as they are coloured everywhere."""
    return [clean(name) for name in dict.fromkeys([result.baseline, *result.arms])]


def rung_budget(result: StudyResult, rung: int) -> str:
    """A rung's budget ("400 steps", "1.2 TFLOP"), or only its number where the ladder does not know it."""
    if not 0 <= rung < len(result.rungs):
        return str(rung)
    return f"{amount(result.rung_axis, result.rungs[rung])}{_unit(result)}"


def ladder(result: StudyResult) -> str:
    """The budgets of all rungs: "200 · 400 · 800 steps"."""
    return " · ".join(amount(result.rung_axis, rung) for rung in result.rungs) + _unit(result)


def _unit(result: StudyResult) -> str:
    """What ``amount`` leaves out: " steps", " tokens"."""
    named = result.rung_axis == "seconds" or AXES[result.rung_axis].unit
    return "" if named else f" {result.rung_axis}"


def asked(result: StudyResult, *, others: bool = False) -> list[MultiplierRow]:
    """The multipliers that answer the study's question, those on FLOPs; ``others``: the other axes, and tuning charged.

    A result without any on FLOPs is told by all that it has.
    """
    rows = ordered(result)
    first = [row for row in rows if row.axis == "flops" and not row.all_in] or rows
    return [row for row in rows if row not in first] if others else first


def multiplier_sheet(result: StudyResult, among: Iterable[MultiplierRow] | None = None) -> Sheet:
    """Arm x axis x rung: the multiplier with its interval or bound, p-value, seeds, verdict.

    Args:
        result: the study.
        among: the rows that are listed; default: all.
    """
    shown = ordered(result) if among is None else list(among)
    rows = [
        (
            clean(row.arm),
            axis_label(row.axis) + (", all-in" if row.all_in else ""),
            str(row.rung),
            multiplier_text(row),
            probability(row.p),
            str(row.seeds),
            verdict(row),
        )
        for row in shown
    ]
    return Sheet(
        f"Compute multiplier over {clean(result.baseline)}",
        ("arm", "axis", "rung", "multiplier", "p", "seeds", "verdict"),
        rows,
        frozenset({2, 4, 5}),
        " ".join(_explained(result, shown)),
    )


def _rungs(result: StudyResult) -> str:
    """What a rung is."""
    return f"A rung is a budget of {clean(result.baseline)}'s ladder, 0 to {len(result.rungs) - 1}: {ladder(result)}."


def _explained(result: StudyResult, shown: Sequence[MultiplierRow]) -> Iterator[str]:
    """Sentences that explain a table of multipliers, each only where it is needed."""
    base = clean(result.baseline)
    levels = [row.level for row in shown if row.value is not None] or [LEVEL]
    least, most = (f"{100 * level:.3g}" for level in (min(levels), max(levels)))
    yield (
        f"The multiplier is how many times the arm's amount {base} needs for the same {clean(result.unit)}: above 1 "
        f"the arm is better. Intervals are at {least if least == most else f'{least} to {most}'} %, paired over seeds."
    )
    if most != "95" or any((row.p or 0) > 0 for row in shown):
        yield (
            "p is the chance of so much by luck alone. p and levels are corrected by Holm: the more rows an axis has, "
            "the surer each must be, so that luck gives a finding in at most one study of twenty."
        )
    yield f"{_rungs(result)} Nothing is extrapolated beyond it."
    if any(row.censored for row in shown):
        yield (
            "Above and below count the seeds that end beyond the ladder's top or before its start: there only a bound "
            "is known (they are censored)."
        )
    if any(row.all_in for row in shown):
        yield "All-in charges tuning too."
    if any(row.bounds for row in shown):
        yield ">= and <=: the quality of the arm, or of the baseline, is a bound."
    if any(row.bounds == "both" for row in shown):
        yield "Where both are, bounds are compared."
    if result.estimator == "chord":
        yield (
            "The rungs were joined by straight lines, which can give a multiplier up to 4 % too high, an error that no "
            "interval here includes."
        )


def ordered(result: StudyResult) -> list[MultiplierRow]:
    """The multipliers as they are listed: those that charge tuning after all others."""
    return sorted(result.multipliers, key=lambda row: row.all_in)


def multiplier_text(row: MultiplierRow, *, interval: bool = True) -> str:
    """The number of a row: value with interval (if wanted), "> 4.10" or "< 0.71" (times), or "no value"."""
    if row.value is not None:
        sign = {"arm": ">= ", "baseline": "<= "}.get(row.bounds, "")
        if row.low is None or row.high is None:
            return f"{sign}{times(row.value)}{TIMES}"
        fine = decimals(row.low, row.high) > 2
        value, low, high = (f"{v:.3f}" if fine else times(v) for v in (row.value, row.low, row.high))
        return f"{sign}{value}{TIMES}" + (f" [{low}, {high}]" if interval else "")
    if row.bound is not None and row.censored in ("above", "below"):
        return f"{bound(row.bound, row.censored)}{TIMES}"
    return "no value"


def verdict(row: MultiplierRow) -> str:
    """What a multiplier allows to be said: better, worse, not significant, or how many seeds lie off the ladder."""
    if row.censored:
        return f"{row.censored_seeds} of {row.seeds} {'beyond' if row.censored == 'mixed' else row.censored}"
    if not row.significant or row.value is None:
        return "not significant"
    if not row.conclusive:
        return "only a bound"
    return ("better" if row.value > 1 else "worse") + (", by bounds" if row.bounds == "both" else "")


def refusal_lines(result: StudyResult) -> list[str]:
    """Axes without a multiplier, and arms without one on an axis that the others have, each with the reason."""
    alone = [(arm, axis, why) for arm, axes in result.arm_refusals.items() for axis, why in axes.items()]
    return [
        *(f"No arm has a multiplier on {axis_label(axis)}: {clean(why)}" for axis, why in result.refusals.items()),
        *(f"{clean(arm)} has no multiplier on {axis_label(axis)}: {clean(why)}" for arm, axis, why in alone),
    ]


def equal_sheet(result: StudyResult) -> Sheet:
    """Arm against baseline where both spent the same, within 1 %; anything further apart is refused in words."""
    ends = evaluation_ends(result)
    axes = list(dict.fromkeys(["flops", result.rung_axis]))
    rows = []
    for arm in result.arms:
        for rung in range(len(result.rungs)):
            ours, theirs = ends.get((arm, rung), {}), ends.get((result.baseline, rung), {})
            shared = sorted(ours.keys() & theirs.keys())
            if arm == result.baseline or not shared:
                continue
            found: dict[tuple[str, str, str], list[str]] = defaultdict(list)
            pairs = [(ours[seed], theirs[seed]) for seed in shared]
            for axis in axes:
                found[_compare(pairs, axis, result.scale)].append(axis_label(axis))
            for cells, equal in found.items():
                rows.append((clean(arm), str(rung), ", ".join(equal), *cells, str(len(shared))))
    return Sheet(
        f"{clean(result.unit).capitalize()} at equal cost",
        ("arm", "rung", "equal", "difference", "arm's", "baseline's", "seeds"),
        rows,
        frozenset({1, 4, 5, 6}),
        f"Means over seeds of held-out {clean(result.unit)} ({result.scale.direction}); the difference with its 95 % "
        f"interval, paired over seeds. A pair whose cost differs by more than {100 * TOLERANCE:g} % is not compared. "
        f"{_rungs(result)}",
    )


def evaluation_ends(result: StudyResult) -> dict[tuple[str, int], dict[int, Point]]:
    """(arm, rung) -> seed -> last point of the evaluation runs that ended well."""
    ends: dict[tuple[str, int], dict[int, Point]] = defaultdict(dict)
    for run in result.runs:
        if run.role == "evaluation" and run.end is not None:
            ends[run.arm, run.rung][run.seed] = run.end
    return ends


def quality_title(result: StudyResult) -> str:
    """The title of an axis of qualities: what they are, which way is better, whose are bounds."""
    ends = evaluation_ends(result)
    bounds = [arm for arm in dict.fromkeys(arm for arm, _ in ends) if _bound(ends, arm)]
    named = f" (bounds: {', '.join(clean(arm) for arm in bounds)})" if bounds else ""
    return f"held-out {clean(result.unit)}{named}, {result.scale.direction}"


def _bound(ends: Mapping[tuple[str, int], Mapping[int, Point]], arm: str) -> bool:
    """Whether an arm's qualities are bounds."""
    return any(point.bound for (name, _), points in ends.items() if name == arm for point in points.values())


def _compare(pairs: list[tuple[Point, Point]], axis: str, scale: Scale) -> tuple[str, str, str]:
    field = "step" if axis == "steps" else axis
    costs = [(float(getattr(a, field)), float(getattr(b, field))) for a, b in pairs]
    apart = max(abs(a / b - 1) if b else math.inf for a, b in costs)
    ours, theirs = mean([a.value for a, _ in pairs]), mean([b.value for _, b in pairs])
    if apart > TOLERANCE:
        return f"refused: {digits(100 * apart)} % apart", "", ""
    gaps = [a.value - b.value for a, b in pairs]
    gap = mean(gaps)
    half = half_width(gaps) if len(gaps) >= 3 else None
    interval = "" if half is None else f" [{signed(gap - half)}, {signed(gap + half)}]"
    bounds = any(a.bound for a, _ in pairs), any(b.bound for _, b in pairs)
    texts = [scale.text(value, bound=bound) for value, bound in zip((ours, theirs), bounds, strict=True)]
    return f"{_least_or_most(*bounds, scale)}{signed(gap)}{interval}", texts[0], texts[1]


def _least_or_most(ours: bool, theirs: bool, scale: Scale) -> str:
    """What stands before a difference of two qualities, ours less theirs, of which either may be a bound."""
    if ours and theirs:
        return "of bounds: "
    if not (ours or theirs):
        return ""
    return "<= " if ours != scale.higher_is_better else ">= "


def mean(values: Iterable[float]) -> float:
    """Arithmetic mean of at least one value."""
    listed = list(values)
    return math.fsum(listed) / len(listed)


def bill_sheet(bill: Mapping[str, Mapping[str, float]], among: Iterable[str] = tuple(AXES)) -> Sheet:
    """Phase x axis (those of ``among`` on which anything was spent), with totals."""
    axes = [axis for axis in among if any(spent.get(axis) for spent in bill.values())]
    spenders = {phase: spent for phase, spent in bill.items() if any(spent.get(axis) for axis in axes)}
    rows = [(clean(phase), *(_cell(axis, spent.get(axis)) for axis in axes)) for phase, spent in spenders.items()]
    if len(rows) > 1:
        totals = [math.fsum(spent.get(axis, 0.0) for spent in bill.values()) for axis in axes]
        rows.append(("total", *(_cell(axis, total) for axis, total in zip(axes, totals, strict=True))))
    columns = ("phase", *(axis_label(axis) for axis in axes))
    return Sheet("Bill by phase", columns, rows, frozenset(range(1, len(columns))))


def ancestor_sheet(ancestors: Mapping[str, Ancestor], among: Iterable[str] = tuple(AXES)) -> Sheet:
    """What was spent on the models that a run, or a study's runs, begin with or use: one line each, with totals."""
    spent = {
        key: {axis: math.fsum(amounts.get(axis, 0) for amounts in each.ledger.values()) for axis in AXES}
        for key, each in ancestors.items()
    }
    axes = [axis for axis in among if any(amounts[axis] for amounts in spent.values())]
    rows = [
        (clean(ancestors[key].name), clean(key[:12]), *(_cell(axis, amounts[axis]) for axis in axes))
        for key, amounts in spent.items()
    ]
    if len(rows) > 1:
        totals = [math.fsum(amounts[axis] for amounts in spent.values()) for axis in axes]
        rows.append(("total", "", *(_cell(axis, total) for axis, total in zip(axes, totals, strict=True))))
    columns = ("ancestor", "recipe", *(axis_label(axis) for axis in axes))
    note = "Spent before, on models that are begun with or used here; each once, and in no other bill here."
    return Sheet("Ancestors", columns, rows, frozenset(range(2, len(columns))), note)


def _cell(axis: str, value: float | None) -> str:
    return amount(axis, value) if value else NOTHING


def tuning_sheet(result: StudyResult) -> Sheet:
    """What was tried for every arm, and what was chosen."""
    rows, scale, ends = [], result.scale, evaluation_ends(result)
    for tuning in result.tunings:
        finite = [quality for quality in tuning.quality if quality is not None]
        diverged = len(tuning.quality) - len(finite)
        remarks = ["optimum at the edge of the grid"] if tuning.edge else []
        remarks += [f"{diverged} diverged"] if diverged else []
        rows.append(
            (
                clean(tuning.arm),
                str(tuning.rung),
                clean(tuning.hyper),
                ", ".join(f"{value:.3g}" for value in tuning.values),
                f"{tuning.chosen:.3g}",
                scale.text(min(finite, key=scale.cost), bound=_bound(ends, tuning.arm)) if finite else "",
                "; ".join(remarks),
            )
        )
    return Sheet(
        "Tuning",
        ("arm", "rung", "of", "tried", "chosen", "best", ""),
        rows,
        frozenset({1, 4, 5}),
        _fairness(result),
    )


def _fairness(result: StudyResult) -> str:
    """What the trials and seeds that were used say of the comparison."""
    lowest = min((tuning.rung for tuning in result.tunings), default=0)
    trials: dict[str, int] = defaultdict(int)
    for tuning in result.tunings:
        trials[tuning.arm] += len(tuning.values) if tuning.rung == lowest else 0
    seeds = {role: {run.seed for run in result.runs if run.role == role} for role in ("tuning", "evaluation")}
    even = len({*trials.values()}) == 1 and trials.keys() == {result.baseline, *result.arms}
    alike = (
        f"every arm got {max(trials.values(), default=0)} trials" if even else "the arms got unequal numbers of trials"
    )
    apart = "differ from" if seeds["tuning"].isdisjoint(seeds["evaluation"]) else "overlap with"
    return f"At rung {lowest} {alike}; tuning seeds {apart} evaluation seeds."


def environment_sheet(result: StudyResult) -> Sheet:
    """What made the runs: a line for each distinct environment, with the number of its runs."""
    runs = Counter(environment for environment in {run.run: run.environment for run in result.runs}.values())
    rows = []
    for key, made in result.environments.items():
        commit = clean(abridged(made.get("commit") or "unknown")) + (", changed" if made.get("dirty") else "")
        device = made.get("cpu") if made.get("device") == "cpu" else made.get("device")
        rest = [clean(abridged(made.get(name, ""))) for name in ("threads", "torch", "isoflop", "determinism")]
        rows.append((str(runs[key]), commit, clean(abridged(device or "")), *rest))
    columns = ("runs", "commit", "device", "threads", "torch", "isoflop", "repeats")
    return Sheet("What made the runs", columns, rows, frozenset({0, 3}))


def run_sheet(result: StudyResult) -> Sheet:
    """Every run of the study, one line each."""
    rows = [_run_cells(run, result.scale) for run in result.runs]
    columns = ("arm", "rung", "tuned value", "seed", "role", "status", result.unit, "FLOPs", "tokens", "directory")
    return Sheet("Runs", tuple(clean(c) for c in columns), rows, frozenset({1, 3, 6, 7, 8}))


def _run_cells(run: RunRow, scale: Scale) -> tuple[str, ...]:
    end, measured = run.end, ("", "", "")
    if end is not None:
        value = scale.text(end.value, bound=end.bound)
        measured = (value, amount("flops", end.flops), amount("tokens", end.tokens))
    status = f"{run.status}, reused" if run.reused else run.status
    tuned = ", ".join(f"{clean(key)} {value:.3g}" for key, value in run.hyper.items())
    return (clean(run.arm), str(run.rung), tuned, str(run.seed), run.role, status, *measured, clean(run.run))

"""What a page draws of several runs that lie beside each other: quality by size, and values by length, with every seed.

Nothing here goes by a method's name. A *cut* is a run that was made of another one's weights and took no step. A metric
is measured *by number* where all its domains are numbers, such as lengths.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..core.errors import IsoflopError
from ..core.roles import numel
from ..store.measured import Axes, Family
from ..store.records import scale_of
from ..store.results import StudyResult
from ..store.run import Run, run_directories
from .text import known

Families = dict[str, tuple[Axes, Family]]
"""Name -> what a family of values is drawn against, and the family."""
WHOLE, ALIKE, MIXED, APART = "the run", "cut, layers alike", "cut, layers mixed", "trained apart"
EVALUATIONS = 4
"""Evaluations of a run that are drawn by number at most, the last one among them."""


def of_run(directory: Path) -> Families:
    """What a run and those beside it show together.

    Args:
        directory: of the run.
    """
    run = Run.read(directory)
    others = [other for other in _runs(directory.parent) if other.path.name != run.path.name]
    found = _by_number({"": [run, *(other for other in others if _but_seed(other) == _but_seed(run))]})
    if sizes := _by_size(run, others):
        scale = scale_of(run.result)
        found["size"] = (Axes(across="parameters", up=f"held-out {scale.unit}, {scale.direction}"), sizes)
    return found


def of_study(result: StudyResult, directory: Path) -> Families:
    """What a study's evaluation runs show by number at their arms' highest rungs, where they still lie beside it.

    Args:
        result: the study's.
        directory: of the study.
    """
    top: dict[str, int] = {}
    ended = [run for run in result.runs if run.role == "evaluation" and run.status == "done"]
    for row in ended:
        top[row.arm] = max(top.get(row.arm, 0), row.rung)
    arms: dict[str, list[Run]] = defaultdict(list)
    for row in ended:
        if row.rung == top[row.arm] and (directory.parent / row.run / "resolved.json").is_file():
            with suppress(IsoflopError):
                arms[row.arm].append(Run.read(directory.parent / row.run))
    return _by_number(arms)


def _runs(root: Path) -> Iterator[Run]:
    """The runs below a root that can be read."""
    for place in run_directories(root):
        with suppress(IsoflopError):
            yield Run.read(place)


def _but_seed(run: Run) -> dict[str, Any]:
    return {key: value for key, value in run.resolved.items() if key not in ("seed", "name")}


# ---------------------------------------------------------------- by number


def _by_number(groups: Mapping[str, list[Run]]) -> Families:
    """Each metric whose domains are numbers: way -> number -> value of each run.

    Args:
        groups: runs that differ in their seeds alone, by name; of one group without a name several evaluations show.
    """
    found: dict[str, Family] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    axes: dict[str, Axes] = {}
    for group, runs in groups.items():
        for run in runs:
            evaluated = _some(run.metrics("evaluation")) if not group else run.metrics("evaluation")[-1:]
            for record in evaluated:
                for metric, kept in (record.get("metrics") or {}).items():
                    # runs of old keep a metric's value alone
                    numbers = _numbers(kept.get("domains") or {}) if isinstance(kept, dict) else {}
                    if len(numbers) < 2:
                        continue
                    scale = scale_of(kept)
                    across = metric.rpartition("_by_")[2] if "_by_" in metric else "number"
                    axes[metric] = Axes(across=across, up=f"{scale.unit}, {scale.direction}")
                    for number, value in numbers.items():
                        found[metric][group or f"after {record['step']:,} steps"][number].append(value)
    return {metric: (axes[metric], family) for metric, family in found.items()}


def _some(evaluated: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A few of the evaluations, evenly spaced; the last one is among them."""
    last = len(evaluated) - 1
    places = {round(last * (i + 1) / EVALUATIONS) for i in range(EVALUATIONS)} if last >= 0 else set()
    return [evaluated[place] for place in sorted(places)]


def _numbers(domains: Mapping[str, Any]) -> dict[float, float]:
    """Domains and their values, if the names of all are numbers."""
    found = {}
    for name, value in domains.items():
        if not name.replace(".", "", 1).isdecimal():
            return {}
        if (number := known(value)) is not None:
            found[float(name)] = number
    return found


# ---------------------------------------------------------------- by size


def _by_size(run: Run, others: list[Run]) -> Family:
    """Quality against parameters of a run, of its cuts, and of runs of the cuts' models that were trained apart."""
    cuts = [other for other in others if (other.resolved.get("start") or {}).get("recipe") == run.hash]
    cuts = [other for other in cuts if other.result.get("compressed") and other.finished and _alike(other, run)]
    if not cuts:
        return {}
    family: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    wanted = {_model(cut) for cut in (run, *cuts)}
    apart = [
        other for other in others if not other.resolved.get("start") and _model(other) in wanted and _alike(other, run)
    ]
    for way, listed in ((WHOLE, [run]), (ALIKE, cuts), (MIXED, cuts), (APART, apart)):
        for each in listed:
            if way in (ALIKE, MIXED) and _mixed(each) != (way == MIXED):
                continue
            value, size = known(each.result.get("value")), _parameters(each)
            if value is not None and size is not None:
                family[way][size].append(value)
    return family


def _alike(other: Run, run: Run) -> bool:
    """Whether the values of both are of the same metric, text and tokens."""
    return all(_told(other.resolved.get(key)) == _told(run.resolved.get(key)) for key in ("source", "tokenizer")) and (
        _told((other.resolved.get("metrics") or [None])[0]) == _told((run.resolved.get("metrics") or [None])[0])
    )


def _model(run: Run) -> str:
    return _told(run.resolved.get("model"))


def _told(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _mixed(run: Run) -> bool:
    """Whether the layers of a run's model differ."""
    model = run.resolved.get("model") or {}
    return any(isinstance(own, list) and any(each != own[0] for each in own) for own in model.values())


def _parameters(run: Run) -> float | None:
    """Parameters of the model; None where this version cannot read its recipe."""
    try:
        return float(numel(run.recipe.model.shapes(run.recipe.vocab_size)))
    except IsoflopError:
        return None

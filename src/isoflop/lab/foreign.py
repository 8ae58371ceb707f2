"""The multiplier of runs that were trained elsewhere: a table in, one row a run, multipliers out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.complaints import SEEDS, few_seeds
from ..core.errors import DataError, UsageError, nearest
from ..core.scale import Scale
from ..core.table import Table
from ..laws.formula import Array
from ..laws.guesses import candidates
from ..laws.tables import rename
from ..store.results import Axis, MultiplierRow, Point, RunRow
from .multiplier import AXES, Facts, illegal, multipliers

_USUAL = {"flops": "C", "tokens": "D", "value": "loss"}
"""Columns of ours that laws know by another name, under which usual names are recognised."""
_ALIKE: dict[Axis, tuple[tuple[str, str], ...]] = {
    "tokens": (("parameters", "a token costs more in a larger model"), ("tokenizer", "their tokens are other amounts")),
    "text_bytes": (("parameters", "a byte costs more in a larger model"),),
    "steps": (("batch", "steps of different batches cannot be compared"),),
}
"""By axis, the columns in which all runs must agree, and why."""

_WANTED = (
    "it needs three seeds (an interval of two is 18 of their standard deviations wide), each with a value there and "
    "three rungs of the baseline's"
)


@dataclass(frozen=True)
class ForeignResult:
    """What a table of runs says of its arms.

    Attributes:
        multipliers: of every arm and rung, on each legal axis that the table has.
        refusals: axis -> why it allows none.
        notes: what had to be taken on trust, as sentences.

    Example:
        >>> ForeignResult([], {"seconds": "the runs shared the machine"}, []).text
        'no multiplier on seconds: the runs shared the machine'
    """

    multipliers: list[MultiplierRow]
    refusals: dict[str, str]
    notes: list[str]

    @property
    def text(self) -> str:
        """Each multiplier as a sentence, then refusals and notes."""
        lines = [f"rung {row.rung}: {row.sentence}" for row in self.multipliers]
        lines += [f"no multiplier on {axis}: {why}" for axis, why in self.refusals.items()]
        return "\n".join(lines + self.notes)

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        rows = [row.model_dump(mode="json") for row in self.multipliers]
        return {"multipliers": rows, "refusals": self.refusals, "notes": self.notes}


def foreign_multipliers(
    table: Table,
    baseline: str,
    *,
    columns: Mapping[str, str] | None = None,
    higher_is_better: bool | None = None,
    unit: str | None = None,
) -> ForeignResult:
    """The multiplier of each arm of a table of finished runs, on every axis that the table has and that is legal.

    The table has columns ``arm``, ``seed``, ``value`` (the quality) and an axis at least (``flops``, ``tokens`` ...); a
    column ``rung`` says which runs stand side by side over seeds, else they are counted by amount.
    Of several rows of one run (a column ``run``) the one that had spent the most is the run's end.

    Args:
        table: one row a run, or a point of a run's curve.
        baseline: the arm that the others are compared with.
        columns: our column -> the table's.
        higher_is_better: of the values; default: what the table's column of that name says, else no.
        unit: of the values; default: the table's column of that name, else that of its column of values.

    Raises:
        DataError: a column is missing or holds no numbers; seeds or rungs do not match.
        UsageError: no arm has the baseline's name.

    Example:
        >>> def row(arm, seed, flops, like): return arm, seed, flops, 1 + 100 / like**0.5 + seed / 100
        >>> rows = [row("adamw", seed, c, c) for c in (512, 1024, 2048) for seed in (1, 2, 3)]
        >>> rows += [row("muon", seed, 768, 1024) for seed in (1, 2, 3)]
        >>> names = ("arm", "seed", "flops", "value")
        >>> found = foreign_multipliers(Table({n: list(c) for n, c in zip(names, zip(*rows))}), "adamw")
        >>> [round(row.value, 2) for row in found.multipliers]
        [1.33]
    """
    told = dict(columns or {})
    measured = told.get("value", "value")
    known = _with_usual_names(rename(table, told))
    axes = [axis for axis in AXES if axis in known]
    if missing := [name for name in ("arm", "seed", "value") if name not in known] or ([] if axes else ["flops"]):
        what = f"has no column {missing[0]!r}"
        fix = f"say which it is: --columns {missing[0]}=COLUMN (of {', '.join(table)})"
        raise DataError(what, where="table", fix=fix)
    arms = known.texts("arm").tolist()
    if baseline not in arms:
        raise UsageError(f"no run's arm is {baseline!r}", where="--baseline", fix=nearest(baseline, set(arms)))
    scale = Scale(unit or _said(known, "unit") or measured, _higher(known, higher_is_better))
    runs = _runs(_ends(known, axes[0]), axes)
    rows, refusals, notes = list[MultiplierRow](), dict[str, str](), list[str]()
    facts = {arm: Facts(parameters=0, tokens_per_step=0, tokenizer="") for arm in sorted(set(arms))}
    for axis in axes:
        if why := _differing(known, axis) or illegal(axis, facts, runs, baseline) or _thin(runs, baseline):
            refusals[axis] = why
        else:
            found = multipliers(runs, baseline=baseline, axis=axis, scale=scale)
            judged = {(row.arm, row.rung) for row in found}
            left = sorted({(run.arm, run.rung) for run in runs if run.arm != baseline} - judged)
            notes += [f"no multiplier of {arm} at rung {rung} on {axis}: {_WANTED}" for arm, rung in left]
            rows += found
    trusted = _taken_on_trust(known, [axis for axis in axes if axis not in refusals])
    return ForeignResult(rows, refusals, [*notes, *trusted])


def _with_usual_names(table: Table) -> Table:
    found = {
        ours: told[0]
        for ours, usual in _USUAL.items()
        if ours not in table
        and len(told := [*([usual] if usual in table else []), *candidates(usual, table)]) == 1
    }  # fmt: skip
    return table.with_columns(**{ours: table[theirs] for ours, theirs in found.items()})


def _said(table: Table, column: str) -> str:
    """What a column says in all rows alike; "" where there is none, or it says several things."""
    told = set(table.texts(column).tolist()) if column in table else set()
    return str(told.pop()) if len(told) == 1 else ""


def _higher(table: Table, asked: bool | None) -> bool:
    return asked if asked is not None else _said(table, "higher_is_better").lower() in ("1", "1.0", "true")


def _ends(table: Table, axis: Axis) -> Table:
    """Of each run's rows the one that had spent the most; of tables without names of runs, all."""
    if "run" not in table:
        return table
    amounts = table.numbers(axis)
    last: dict[str, int] = {}
    for row, run in enumerate(table.texts("run").tolist()):
        if run not in last or amounts[row] > amounts[last[run]]:
            last[run] = row
    return table.where(np.asarray(sorted(last.values())))


def _runs(table: Table, axes: list[Axis]) -> list[RunRow]:
    amounts = {axis: _whole(table.numbers(axis)) for axis in axes}
    values, seeds = table.numbers("value"), _seeds(table)
    arms, rungs = table.texts("arm").tolist(), _rungs(table, axes[0])
    for axis, column in (*amounts.items(), ("value", values)):
        if not np.isfinite(column).all() and axis != "value":
            raise DataError(f"column {axis!r} lacks numbers", where="table", fix="leave those rows out: --where")
    runs = []
    for i in range(table.rows):
        spent = {axis: float(amounts[axis][i]) if axis in amounts else 0.0 for axis in AXES}
        whole: dict[str, Any] = {
            "step" if axis == "steps" else axis: round(amount) for axis, amount in spent.items() if axis != "seconds"
        }
        done = bool(np.isfinite(values[i]))
        end = Point(**whole, seconds=spent["seconds"], value=float(values[i]), stderr=None) if done else None
        runs.append(
            RunRow(
                run=f"row {i + 1}",
                recipe_hash=str(i),
                arm=arms[i],
                rung=rungs[i],
                seed=seeds[i],
                role="evaluation",
                status="done" if done else "diverged",
                curve=[end] if end else [],
            )
        )
    return runs


def _whole(amounts: Array) -> Array:
    """Amounts in a unit so small that rounding to whole ones changes nothing: only their ratios count."""
    known = amounts[np.isfinite(amounts) & (amounts > 0)]
    if not known.size or (known == np.round(known)).all():
        return amounts
    return amounts * (2.0**40 / float(known.min()))


def _seeds(table: Table) -> list[int]:
    """The seeds as whole numbers: those that are none are counted, since they only pair runs."""
    known = {text: place for place, text in enumerate(dict.fromkeys(table.texts("seed").tolist()))}
    return [known[text] for text in table.texts("seed").tolist()]


def _rungs(table: Table, axis: Axis) -> list[int]:
    """The column ``rung``, or the run's place among its arm's and seed's, by what was spent."""
    if "rung" in table:
        rungs = table.numbers("rung")
        if not (np.isfinite(rungs) & (rungs == np.round(rungs))).all():
            raise DataError("column 'rung' holds no whole numbers", where="table", fix="count the budgets from 0 on")
        return [int(rung) for rung in rungs]
    cells: dict[tuple[str, str], list[float]] = {}
    keys = list(zip(table.texts("arm").tolist(), table.texts("seed").tolist(), strict=True))
    amounts = table.numbers(axis).tolist()
    for key, amount in zip(keys, amounts, strict=True):
        cells.setdefault(key, []).append(amount)
    counts = {arm: {len(cells[key]) for key in cells if key[0] == arm} for arm, _ in keys}
    if uneven := [arm for arm, sizes in counts.items() if len(sizes) > 1]:
        what = f"the seeds of {uneven[0]} have different numbers of runs"
        raise DataError(what, where="table", fix="say which belong together in a column: --columns rung=COLUMN")
    return [sorted(cells[key]).index(amount) for key, amount in zip(keys, amounts, strict=True)]


def _differing(table: Table, axis: Axis) -> str:
    """Why runs that differ in a column cannot be compared on an axis; "" if they can, as far as the table tells."""
    for column, why in _ALIKE.get(axis, ()):
        if column in table and len(told := set(table.texts(column).tolist())) > 1:
            return f"the runs have {len(told)} different {column}: {why}"
    return ""


def _thin(runs: list[RunRow], baseline: str) -> str:
    """Why no arm can be judged at all: fewer than three seeds that the baseline has, too; else ""."""
    seeds = {run.seed for run in runs if run.arm == baseline}
    most = max((_shared(runs, run, seeds) for run in runs if run.arm != baseline), default=0)
    return "" if most >= SEEDS else f"{few_seeds(most)}; they must be seeds that {baseline} has, too"


def _shared(runs: list[RunRow], one: RunRow, seeds: set[int]) -> int:
    return len({run.seed for run in runs if (run.arm, run.rung) == (one.arm, one.rung)} & seeds)


def _taken_on_trust(table: Table, axes: list[Axis]) -> list[str]:
    """What the table does not tell and a comparison on these axes rests on."""
    needed = dict.fromkeys(column for axis in axes for column, _ in _ALIKE.get(axis, ()) if column not in table)
    unknown = ["the text they were evaluated on", *(f"their {column}" for column in needed)]
    return [f"taken on trust, as the table does not tell it: that the runs share {', '.join(unknown)}"] if axes else []

"""What the store remembers, in sentences and tables: the best runs, and what was tried at which budget."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..core.scale import Scale
from ..store.query import MemoryAnswer, by_budget, merit
from .sheets import Sheet
from .text import NOTHING, amount, clean, known

TOP = 5
"""Runs that are listed, unless more are wanted."""
Row = Mapping[str, Any]


def sentences(answer: MemoryAnswer) -> list[str]:
    """The answer in words."""
    asked = answer.question
    if answer.unknown:
        return [f"No: no run here has {clean(each)}" for each in answer.unknown]
    if not answer.runs:
        return ["No run here is like that."]
    if asked.task == "best":
        firsts = [rows[0] for rows in _by_unit(answer.runs).values()]
        if not firsts:
            return [f"None of these {_count(answer.runs)} has a value: {_states(answer.runs)}."]
        return [f"Best: {_value(row)} with {_spent(row)}: {clean(row['path'])} ({_method(row)})." for row in firsts]
    lines = [f"Yes: {_count(answer.runs)} ({_states(answer.runs)})."]
    lines += [f"Best: {_value(rows[0])} with {_spent(rows[0])}." for rows in _by_unit(answer.runs).values()]
    return lines


def found_by_studies(answer: MemoryAnswer) -> list[str]:
    """What studies say of the arms that the runs belong to, significant or not."""
    return [f"{clean(row['path'])}, rung {row['rung']}: {clean(row['sentence'])}" for row in answer.findings]


def sheets(answer: MemoryAnswer, top: int = TOP) -> Iterator[Sheet]:
    """The tables of an answer.

    Args:
        answer: what is told.
        top: runs of each unit that are listed.
    """
    if not answer.runs:
        return
    if answer.question.task == "tried":
        yield _budget_sheet(answer.runs)
    for rows in _by_unit(answer.runs).values():
        yield _run_sheet(rows[:top], len(rows))


def _budget_sheet(runs: Sequence[Row]) -> Sheet:
    lines = []
    for (budget, _), rows in by_budget(runs).items():
        best = min((row for row in rows if known(row["value"]) is not None), key=merit, default=None)
        rates = sorted({rate for row in rows if (rate := known(row["lr"])) is not None})
        spread = NOTHING if not rates else f"{rates[0]:.3g}" + (f" to {rates[-1]:.3g}" if len(rates) > 1 else "")
        seeds = len({row["seed"] for row in rows})
        lines.append((clean(budget), _states(rows), spread, str(seeds), _value(best) if best else NOTHING))
    columns = ("budget", "runs", "rates", "seeds", "best value")
    return Sheet("By budget, the dearest first", columns, lines, frozenset({3}))


def _run_sheet(rows: Sequence[Row], of: int) -> Sheet:
    lines = [
        (
            _value(row),
            clean(row["optimizer"] or ""),
            NOTHING if known(row["lr"]) is None else f"{row['lr']:.3g}",
            str(row["seed"]),
            clean(row["budget"] or ""),
            amount("flops", row["flops"]) if known(row["flops"]) else NOTHING,
            clean(row["path"]),
        )
        for row in rows
    ]
    note = "Runs on different texts, or of different tokenizers in nats, cannot be compared by their values."
    title = f"The best {len(rows)} of {of} runs" if of > 1 else "The run"
    return Sheet(
        title, ("value", "optimizer", "rate", "seed", "budget", "FLOPs", "directory"), lines, frozenset({2}), note
    )


def _by_unit(runs: Sequence[Row]) -> dict[str, list[Row]]:
    """Runs with a value, by its unit; the best first."""
    found: dict[str, list[Row]] = {}
    for row in runs:
        if known(row["value"]) is not None:
            found.setdefault(row["unit"] or "", []).append(row)
    return found


def _value(row: Row) -> str:
    scale = Scale(clean(row["unit"] or ""), bool(row["higher_is_better"]))
    return f"{scale.text(row['value'], bound=bool(row['bound']))} {scale.unit}"


def _spent(row: Row) -> str:
    flops = known(row["flops"])
    return clean(row["budget"] or "") + (f", {amount('flops', flops)}" if flops else "")


def _method(row: Row) -> str:
    rate = known(row["lr"])
    told = [f"optimizer {clean(row['optimizer'] or '')}" + ("" if rate is None else f" at {rate:.3g}")]
    return ", ".join([*told, f"seed {row['seed']}"])


def _count(rows: Sequence[Row]) -> str:
    return f"{len(rows):,} run" + ("s" if len(rows) != 1 else "")


def _states(rows: Sequence[Row]) -> str:
    return ", ".join(f"{count} {clean(state)}" for state, count in Counter(row["status"] for row in rows).items())

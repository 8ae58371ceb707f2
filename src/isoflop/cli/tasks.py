"""What ``isoflop eval --task`` does: tasks in local JSON Lines, measured and said with their standard errors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..core.errors import UsageError
from .common import emit

if TYPE_CHECKING:
    from ..evals.local_tasks import TaskScore
    from ..train.restore import Trained

BUDGET = 256
"""Tokens of a written answer, at most."""


def on_local_tasks(
    load: Callable[[], Trained],
    name: str,
    files: Sequence[Path],
    limit: int | None,
    json: bool,
    against: Path | None = None,
) -> None:
    """Measure a model on tasks and say how it did, and whether better than another one.

    Args:
        load: loads the model, once nothing else is known to be amiss.
        name: as the user named it.
        files: of the tasks.
        limit: only so many items of each, the first ones.
        json: print JSON.
        against: what ``--json`` printed of another model on the same items.
    """
    from dataclasses import asdict, replace

    from ..evals.local_tasks import LocalTask, OtherScores, measure_task
    from ..evals.scoring import PairScorer

    tasks, other = [LocalTask.read(file) for file in files], OtherScores.read(against) if against else OtherScores()
    for task in tasks:
        other.known(task.name)
    found = load()
    if found.tokenizer is None:
        raise UsageError("does not say how likely a text is, left to right", where=name, fix="measure a causal model")
    scorer = PairScorer(found.causal(name).model, length=found.reach, device=found.ctx.device)
    rows: list[dict[str, Any]] = []
    for task in tasks:
        items = task.items[:limit] if limit else task.items
        score = measure_task(replace(task, items=items), scorer, found.tokenizer, _writer(found))
        beside = other.beside(score)
        figures = _figures(score) | (
            {"against": {norm: asdict(pair) for norm, pair in beside.items()}} if beside else {}
        )
        rows.append({"task": task.name, "kind": task.kind, "items": len(items), **figures})
        if not json:
            said = ", ".join(f"{norm} {score.accuracy(norm):.4f} ± {score.stderr(norm):.4f}" for norm in score.right)
            error = rows[-1].get("calibration_error")
            typer.echo(f"{task.name} ({len(items):,}): {said}" + (f"; ECE {error:.4f}" if error is not None else ""))
            for norm, pair in beside.items():
                more = f"{pair.difference:+.4f} ± {pair.stderr:.4f}, p = {pair.p:.2g}"
                typer.echo(f"  {norm} beside {other.name}: {more}")
    if json:
        emit({"model": name, "step": found.step, "tasks": rows})


def _figures(score: TaskScore) -> dict[str, Any]:
    from ..evals.calibration import calibration_error, debiased_error, top

    figures: dict[str, Any] = {
        norm: {"accuracy": score.accuracy(norm), "stderr": score.stderr(norm), "right": score.right[norm].astype(int)}
        for norm in score.right
    }
    if score.probabilities is not None and score.probabilities.shape[1] > 1:
        sure = top(score.probabilities, score.gold)
        figures["calibration_error"] = calibration_error(*sure)
        figures["calibration_error_mass"] = calibration_error(*sure, kind="mass")
        figures["calibration_error_debiased"] = debiased_error(*sure)
    return figures


def _writer(found: Trained) -> Callable[[Sequence[str]], Sequence[str]]:
    """From questions to answers: the likeliest token each time."""

    def write(questions: Sequence[str]) -> Sequence[str]:
        from ..core.contracts import DecoderPart
        from ..core.rng import Rng
        from ..core.slots import part_from
        from ..data.tokenizing import as_prompt, continuation

        tokenizer = found.tokenizer
        assert tokenizer is not None
        part = part_from("decoder", "sample", "temperature=0", f"stop={tokenizer.eot}")
        assert isinstance(part, DecoderPart)
        prompts = [as_prompt(tokenizer, question) for question in questions]
        decoder = part.build(found.ctx)
        ids = decoder.generate(found.model, prompts, min(BUDGET, max(found.reach // 2, 1)), Rng(0)("answers"))
        return ["".join(continuation(tokenizer, prompt, new)) for prompt, new in zip(prompts, ids, strict=True)]

    return write

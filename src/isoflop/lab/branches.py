"""What a ladder whose rungs branch shares: the first steps of longer runs, which shorter ones had made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from ..ledger.budgets import step_cost, steps_within
from ..store.results import RunRow
from .study import Study
from .tuning import Tuned


def most_shared(study: Study) -> int:
    """FLOPs of training that branches save at most: where every tuned value is the same at all of an arm's rungs.

    Args:
        study: whose runs are asked for; 0 where its rungs do not branch.

    Example, with ``study`` a tiny study:
        >>> constant = 'recipe.schedule="constant"'
        >>> most_shared(study), most_shared(study.with_(constant, "ladder.branches=true")) > 0
        (0, True)
    """
    saved = 0
    for arm in study.everyone:
        saved += len(study.seeds) * sum(_shared(study, arm, low) for low, _ in pairwise(sorted(study.rungs_of(arm))))
    trials = 0 if study.tuning.top_points else len(study.grid(study.baseline)) * len(study.tuning.seeds)
    return saved + trials * _shared(study, study.baseline, 0)


def remarks(study: Study, tuned: Tuned, rows: Sequence[RunRow]) -> Iterator[str]:
    """What the bill of a study whose rungs branch counts once, and which arms shared nothing.

    Args:
        study: what was compared.
        tuned: what tuning chose.
        rows: its runs.
    """
    if not study.ladder.branches:
        return
    made = {row.recipe_hash for row in rows}
    taken = {row.run: row.trunk.ledger for row in rows if row.trunk is not None and row.trunk.recipe_hash in made}
    flops = sum(map(_trained, taken.values()))
    yield (
        f"{len(taken)} of {len({row.run for row in rows})} runs went on from a shorter one of the same arm and seed: "
        f"{flops:.3e} FLOPs of their paths are in the bill once"
    )
    for arm in study.everyone:
        values = [tuned.value(study, arm, rung) for rung in study.rungs_of(arm)]
        if len(set(values)) > 1:
            told = ", ".join(f"{value:g}" for value in values)
            yield f"{arm} was tuned to {told} by rung: only rungs of one value share steps"


def _trained(ledger: Mapping[str, Mapping[str, float]]) -> float:
    return sum(amounts.get("flops", 0) for phase, amounts in ledger.items() if phase != "evaluation")


def _shared(study: Study, arm: str, rung: int) -> int:
    """FLOPs of the steps that an arm's longer runs have in common with one at a rung."""
    recipe = study.run_recipe(arm, rung, study.seeds[0])
    cost = step_cost(recipe)
    steps = study.branch(recipe)
    return 0 if steps is None else cost.run(min(steps, steps_within(recipe.budget, cost))).flops

"""A tiny study, and an executor that computes qualities from a planted law instead of training."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from isoflop.lab.workers import Assignment
from isoflop.ledger.budgets import step_cost, steps_within
from isoflop.store.results import Point, RunRow

TOML = """
name = "tiny"
title = "A tiny study"
baseline = "adamw"
seeds = [1, 2, 3]
caveats = ["tiny"]

[recipe]
source = { name = "hmm", text_bytes = 20000, heldout_bytes = 2000 }
tokenizer = "bytes"
model = { name = "transformer", d_model = 16, layers = 1, mixer = { name = "attention", heads = 2 } }
train = { batch = 2, length = 16, evaluations = 1 }

[ladder]
axis = "steps"
rungs = [4, 8, 16]

[arms.muon]
overrides = ["optimizer=muon"]

[tuning]
seeds = [101]
"""

Optimum = Callable[[str, int], float]


class Planted:
    """Quality of a run: a law in tokens, times the arm's planted multiplier, and a bowl in the learning rate.

    ``asked`` are the assignments in order; ``diverges`` says which of them come back without a curve.
    """

    def __init__(
        self,
        multipliers: dict[str, float],
        optimum: Optimum = lambda arm, rung: 5e-3,
        diverges: Callable[[Assignment], bool] = lambda job: False,
    ) -> None:
        self.multipliers, self.optimum, self.diverges = multipliers, optimum, diverges
        self.asked: list[Assignment] = []
        self.batches: list[int] = []

    def quality(self, job: Assignment, tokens: float) -> float:
        rate = job.hyper["optimizer.lr"]
        miss = math.log2(rate / self.optimum(job.arm, job.rung))
        wobble = 0.003 * math.sin(17 * job.seed + len(job.arm))
        return 4.0 - 0.3 * math.log2(self.multipliers.get(job.arm, 1.0) * tokens) + 0.002 * miss**2 + wobble

    def __call__(self, assignments: Sequence[Assignment]) -> Iterator[RunRow]:
        self.batches.append(len(assignments))
        for job in assignments:
            self.asked.append(job)
            cost = step_cost(job.recipe)
            steps = steps_within(job.recipe.budget, cost)
            flops, tokens = steps * cost.run(1).flops, steps * cost.tokens
            point = Point(
                step=steps,
                flops=flops,
                hardware_flops=flops,
                tokens=tokens,
                text_bytes=3 * tokens,
                seconds=flops / 1e9,
                value=self.quality(job, tokens),
                stderr=0.01,
            )
            broken = self.diverges(job)
            amounts = {"flops": flops, "steps": steps, "tokens": tokens, "seconds": flops / 1e9}
            yield RunRow(
                run=job.recipe.id,
                recipe_hash=job.recipe.hash,
                arm=job.arm,
                rung=job.rung,
                seed=job.seed,
                role=job.role,
                hyper=dict(job.hyper),
                status="diverged" if broken else "done",
                curve=[] if broken else [point],
                ledger={"train": amounts, "evaluation": {"flops": 7, "seconds": 0.5}},
            )

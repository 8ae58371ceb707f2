"""How long a recipe's step takes here: a few steps on made-up ids, which are kept nowhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from ..core.context import Context
from ..core.contracts import HeldOut, TokenBatch
from ..core.errors import IsoflopError
from ..core.recipe import Budget, Recipe
from ..core.registry import shipped
from ..ledger.budgets import StepCost
from ..store.run import Run
from .build import assemble
from .devices import has_device

LIMIT, MOST = 1.0, 25
"""Seconds and steps after which enough is known."""
LONGEST = 1.0
"""Seconds of a step at the machine's rate from which on that rate decides: the rest of such a step hardly counts."""


class MadeUp:
    """A source of random ids, every target of which counts, in the place of a text that nobody has read yet.

    Args:
        vocab_size: ids are below it.
    """

    fingerprint = "made up"

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size

    def batches(self, ctx: Context) -> _Stream:
        return _Stream(self.vocab_size, ctx)

    def heldout(self) -> Mapping[str, HeldOut]:
        return {}


class _Stream:
    def __init__(self, vocab_size: int, ctx: Context) -> None:
        ids = ctx.rng("made up").at(0).integers(0, vocab_size, (ctx.batch, ctx.length + 1), dtype=np.int64)
        inputs, targets = torch.from_numpy(ids[:, :-1].copy()), torch.from_numpy(ids[:, 1:].copy())
        columns = {"documents": torch.zeros_like(inputs)} if ctx.isolate_documents else {}
        self.batch = TokenBatch(inputs, targets, 3 * targets.numel(), columns=columns).to(ctx.device)

    def __next__(self) -> TokenBatch:
        return self.batch

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        pass


def step_seconds(recipe: Recipe, root: Path, cost: StepCost, rate: float) -> tuple[float, int] | None:
    """Seconds of one step, and how many were timed for it; None where a trial would take long or cannot be made.

    Args:
        recipe: what is to be trained.
        root: directory of runs; nothing is written there.
        cost: of its steps.
        rate: FLOPs a second that the machine may reach, which tells in advance whether a trial would take long.
    """
    if cost.run(1).flops / rate > LONGEST or recipe.references or recipe.train.compile:
        return None
    if not has_device(recipe.train.device):
        return None
    if any(part.slot == "objective" and not shipped(part) for _, part in recipe.parts()):
        return None  # it may want another kind of batch
    with suppress(IsoflopError):  # made-up ids are no text: training may refuse them, or diverge
        short = recipe.having(budget=Budget(steps=MOST))
        run = Run(root / ".trial", short.to_json())  # never written to
        loop = assemble(short, run, MadeUp(recipe.vocab_size))
        loop.train_step()  # warms up
        began, taken = time.perf_counter(), list[float]()
        while len(taken) < MOST - 1 and (len(taken) < 2 or time.perf_counter() - began < LIMIT):
            taken.append(loop.train_step()[1])
        return _typical(taken), len(taken)
    return None


def _typical(taken: list[float]) -> float:
    """A step's seconds: the mean, of which a step that something else held up is no part.

    Some optimizers do more in every tenth step: those are not left out, since they are no more than a few times dearer.
    """
    most = 5 * median(taken)
    kept = [seconds for seconds in taken if seconds <= most]
    return sum(kept) / len(kept)

"""What a run will need of memory and time, before anything is built; a batch that cannot fit is refused.

Memory: weights, gradients and two numbers of an optimizer's state a parameter are held throughout. Beside them a pass
holds what the backward pass will read, at its most the operands of the forward pass's work, of which some are read in
place or made again: between .4 and .9 of them were measured on a CPU, for models of .1 to 2 million parameters, batches
of 1 to 64 and lengths of 128 to 4,096. The forecast is at .65, and what is refused would not fit at .3.

Time: by the FLOPs a second of a finished run of the same model, objective, optimizer and batch; without one, by a few
steps on made-up ids; where those would take long, by a share of the machine's largest rate of matrix products.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..core.device import Device, physical_memory
from ..core.errors import BudgetError, IsoflopError, NotMade
from ..core.recipe import Recipe
from ..core.roles import TRAINING_BYTES, numel
from ..ledger.budgets import StepCost
from ..ledger.peak import matmul_rate
from ..store.names import CACHE
from ..store.run import Run
from .build import text_context
from .devices import has_device
from .trial import step_seconds

HELD, LEAST = 0.65, 0.3
"""Share of the forward pass's operands that a pass holds at once: as forecast, and at the very least."""
PROCESS = 350 << 20
"""Bytes that the interpreter and its libraries take on a CPU."""
SHARE = 0.4
"""Of the largest matmul rate, where no run tells."""
ALIKE = ("model", "objective", "averaging", "parametrization", "tokenizer")
"""Slots that a finished run shares with a recipe whose speed it tells, besides the optimizer's name."""
SETTINGS = ("batch", "length", "precision", "device", "compile")
"""Keys of ``train`` that they share."""


@dataclass(frozen=True)
class Needs:
    """What a run will need.

    Args:
        memory: bytes at the peak, on the run's device.
        seconds: of training; NaN where the run's device is not here, or the budget is itself in seconds.
        source: what the time is known from.
        text_tokens: of the training text; None where no run below the root has read it yet, 0 where there is none.
    """

    memory: int
    seconds: float
    source: str
    text_tokens: int | None = None


def forecast(recipe: Recipe, root: Path, cost: StepCost, steps: int) -> Needs:
    """The needs of a run of so many steps at that cost, on this machine."""
    found = _forecast(recipe, root, cost, steps)
    if not (root / CACHE).is_dir():
        return found
    try:
        source = recipe.source.build(text_context(recipe, root).having(make=False))
    except NotMade:  # reading a large text, or making one up, may take longer than an answer may
        return found
    facts: dict[str, Any] = source.describe() if hasattr(source, "describe") else {}
    return replace(found, text_tokens=sum(int(each["tokens"]) for each in facts.get("train", {}).values()))


def _forecast(recipe: Recipe, root: Path, cost: StepCost, steps: int) -> Needs:
    memory = round(needed(recipe, cost, HELD)) + (PROCESS if Device.of(recipe.train.device).is_cpu else 0)
    if not steps:
        return Needs(memory, float("nan"), "")
    flops = cost.run(steps).flops
    runs = [(run.status.created, rate, run.path) for run, rate in _speeds(recipe, root)]
    if runs:
        _, rate, path = max(runs, key=lambda found: found[0])
        return Needs(memory, flops / rate, f"as fast as {path}")
    if not has_device(recipe.train.device):
        return Needs(memory, float("nan"), "")
    rate = SHARE * matmul_rate(recipe.train.device, recipe.train.precision)
    if (trial := step_seconds(recipe, root, cost, rate)) is not None:
        each, count = trial
        return Needs(memory, steps * each, f"as {count} steps on made-up ids took {1000 * each:.3g} ms each")
    return Needs(memory, flops / rate, f"at {SHARE:.0%} of the matmul rate, a guess: no such run is finished here")


def refuse_oversize(recipe: Recipe, cost: StepCost) -> None:
    """BudgetError if the recipe's batch cannot fit into its device's memory; says which one would."""
    there = device_memory(recipe.train.device)
    train, least = recipe.train, needed(recipe, cost, LEAST)
    if there is None or least <= there:
        return
    fixed = TRAINING_BYTES * _parameters(recipe)
    fits = int(train.batch * (there - fixed) * LEAST / HELD / max(least - fixed, 1))
    parts = next((n for n in range(2, train.batch + 1) if train.batch % n == 0 and train.batch // n <= fits), 0)
    remedy = "use a shorter train.length, train.activation_checkpointing=true or a smaller model"
    if parts:
        remedy = f"train.batch={train.batch // parts} train.accumulate={train.accumulate * parts} takes the same steps"
    raise BudgetError(
        f"a batch of {train.batch} sequences of {train.length} takes at least {least / 1e9:.3g} GB, and "
        f"{'this machine' if Device.of(train.device).is_cpu else train.device} has {there / 1e9:.3g} GB",
        where="train.batch",
        fix=remedy,
    )


def needed(recipe: Recipe, cost: StepCost, share: float) -> float:
    """Bytes at the peak of a step, if a pass holds that share of the forward pass's operands."""
    held = share * cost.work.forward.moved
    if recipe.train.precision == "bf16":
        held /= 2
    if recipe.train.activation_checkpointing:
        held /= 4
    return TRAINING_BYTES * _parameters(recipe) + held


def device_memory(device: str) -> int | None:
    """Bytes of memory that a device of this machine has; None where that is not known or it is not there."""
    asked = Device.of(device)
    if asked.is_cpu:
        return physical_memory()
    if asked.is_cuda and torch.cuda.is_available() and asked.index < torch.cuda.device_count():
        return int(torch.cuda.get_device_properties(asked.index).total_memory)
    return None


def _parameters(recipe: Recipe) -> int:
    return numel(recipe.policy.all_shapes(recipe.vocab_size))


def _speeds(recipe: Recipe, root: Path) -> Iterator[tuple[Run, float]]:
    """Finished runs that do the same work a step, each with its FLOPs a second."""
    wanted = recipe.to_json()
    for path in root.glob("*/result.json"):
        with suppress(IsoflopError, KeyError, TypeError, AttributeError, ZeroDivisionError):
            run = Run.read(path.parent)
            same = all(run.resolved.get(slot) == wanted.get(slot) for slot in ALIKE)
            same = same and run.resolved["optimizer"]["name"] == recipe.optimizer.name
            same = same and all(run.resolved["train"].get(key) == wanted["train"].get(key) for key in SETTINGS)
            if same and run.finished:
                yield run, float(run.result["flops"]) / float(run.result["seconds"])

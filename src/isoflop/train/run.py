"""One recipe to one finished run: build the parts, resume if there is something to resume, train, leave the result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import torch

from ..core.context import Context
from ..core.digests import digest_file
from ..core.errors import NumericsError, Stopped, StorageError, UsageError
from ..core.protocols import Source
from ..core.recipe import Recipe
from ..core.roles import parameter_groups
from ..ledger.audit import Audit
from ..ledger.budgets import StepCost, step_cost, steps_within
from ..ledger.peak import matmul_rate
from ..store import machine
from ..store.run import Run
from .loop import Loop, Parts, Progress
from .problem import StepProblem, training_rule


def train(
    recipe: Recipe,
    root: Path | str = "runs",
    *,
    name: str | None = None,
    text: str | None = None,
    threads: int | None = None,
    audit: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> Run:
    """Train ``recipe`` to its budget and return the finished run; a finished one is returned as it stands.

    A run that was stopped or killed goes on from its newest whole checkpoint, and ends with the same bytes.

    Args:
        root: directory of runs; token shards and tokenizers are shared in ``root/cache``.
        name: name of the run's directory; default ``<recipe.name>-<hash12>``.
        text: the recipe as the user wrote it, kept beside the resolved one.
        threads: torch threads of this process; default: leave as they are.
        audit: count the first step's operations as they execute and refuse to go on if the ledger is off by one FLOP.
        progress: called after each step.

    Raises:
        NumericsError: the run diverged. Stopped: a signal. DataError, StorageError, BudgetError, UsageError.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    run = Run.open(Path(root), recipe, text=text, name=name)
    with run.lock():
        if run.finished:
            if run.status.state == "diverged":
                raise NumericsError(run.status.message, where=str(run.path))
            return run
        run.check_environment(threads=torch.get_num_threads())
        run.set_status("running")
        try:
            if audit:
                check_ledger(assemble(recipe, run))
            loop = assemble(recipe, run, progress=progress)
            run.set_status("running", horizon=loop.ctx.horizon)
            try:
                loop()
            finally:
                with suppress(StorageError):
                    run.write_ledger(loop.ledger.to_json())  # what a diverged or stopped run spent is spent
        except Stopped as stop:
            run.set_status("stopped", message=stop.what)
            raise
        except NumericsError as error:
            run.write_result({"status": "diverged", "message": str(error)})
            run.set_status("diverged", message=str(error))
            raise
        except BaseException as error:
            with suppress(StorageError):  # on a full disk the first error is the one to tell
                run.set_status("failed", message=f"{type(error).__name__}: {error}")
            raise
        result = {"status": "done", "value": loop.value, "step": loop.step, **loop.spent()}
        run.write_result({**result, "weights_sha256": weights_digest(run)})
        run.set_status("done", step=loop.step)
    return run


def plan(recipe: Recipe, root: Path | str = "runs") -> tuple[StepCost, int]:
    """Cost of one step, and whole steps within the budget (0: the budget is in seconds).

    Builds nothing, but for a budget in text bytes, which only the text itself can solve.
    """
    cost = step_cost(recipe)
    sizes = None
    if recipe.budget.axis == "text_bytes":
        ctx = base_context(recipe, Path(root))
        sizes = _bytes_of_steps(recipe.source.build(ctx), ctx)
    return cost, steps_within(recipe.budget, cost.total, cost.tokens, sizes)


def assemble(recipe: Recipe, run: Run, *, progress: Callable[[Progress], None] | None = None) -> Loop:
    """Build every live part of a recipe; nothing is trained yet."""
    root = run.path.parent
    ctx = base_context(recipe, root)
    cost, horizon = plan(recipe, root)
    source = recipe.source.build(ctx)
    ctx = ctx.having(horizon=horizon)
    model = recipe.model.build(ctx).to(ctx.device)
    ctx = ctx.having(models={"policy": model}, groups=tuple(parameter_groups(model)))
    parts = Parts(
        source=source,
        batches=source.batches(ctx),
        model=model,
        objective=recipe.objective.build(ctx),
        optimizer=training_rule(recipe.optimizer.build(ctx)),
        schedule=recipe.schedule.build(ctx),
        averaging=recipe.averaging.build(ctx) if recipe.averaging is not None else None,
        metrics=[(part.name, part.build(ctx)) for part in recipe.metrics],
    )
    threads = torch.get_num_threads()
    peak = machine.remembered(
        root,
        f"matmul {ctx.precision}",
        lambda: matmul_rate(ctx.device, ctx.precision, threads),
        threads=threads,
        device=ctx.device,
    )
    return Loop(recipe, run, ctx, parts, cost, peak=peak, progress=progress)


def base_context(recipe: Recipe, root: Path) -> Context:
    """The context of a recipe before any live part exists."""
    settings = recipe.train
    return Context(
        rng=recipe.rng,
        cache=root / "cache",
        tokenizer=recipe.tokenizer,
        vocab_size=recipe.vocab_size,
        batch=settings.batch,
        length=settings.length,
        accumulate=settings.accumulate,
        device=settings.device,
        precision=settings.precision,
        compile=settings.compile,
    )


def _bytes_of_steps(source: Source, ctx: Context) -> Iterator[int]:
    """Text bytes of each step in turn, endlessly."""
    batches = source.batches(ctx)
    while True:
        yield sum(next(batches).text_bytes for _ in range(ctx.accumulate))


def check_ledger(loop: Loop) -> int:
    """Execute one step of a loop (which is spent by it) under audit; the FLOPs that it executed.

    Raises UsageError if they differ from the ledger's hardware count by a single one.
    """
    ctx, parts = loop.ctx, loop.parts
    if ctx.compile:
        raise UsageError("the audit counts eager operations", where="train.compile", fix="audit with compile=false")
    batches = [next(parts.batches) for _ in range(ctx.accumulate)]
    with Audit() as audit:
        parts.optimizer.step(StepProblem(parts.objective, ctx, batches, loop.recipe.train.clip))
        if parts.averaging is not None:
            parts.averaging.update(0)
    executed, expected = int(audit.total()), loop.cost.total.hardware
    if executed != expected:
        raise UsageError(f"the audit counts {executed} FLOPs a step, the ledger {expected}", where=str(loop.run.path))
    loop.run.event("audited", flops=executed)
    return executed


def weights_digest(run: Run) -> str:
    """SHA-256 of the newest checkpoint's weights file."""
    found = run.checkpoint()
    assert found is not None
    return digest_file(found[1] / "model.safetensors")


def restore(run: Run, *, device: str | None = None) -> Loop:
    """The live parts of a run at its newest checkpoint; the model holds the evaluation (averaged) weights.

    Raises UsageError if the run has no checkpoint yet.
    """
    recipe = run.recipe
    if device is not None:
        recipe = recipe.with_(f'train.device="{device}"')
    found = run.checkpoint()
    if found is None:
        raise UsageError("has no checkpoint yet", where=str(run.path), fix="train it first")
    loop = assemble(recipe, run)
    loop.load(*found)
    with loop.evaluation_weights():
        evaluated = {name: tensor.clone() for name, tensor in loop.parts.model.state_dict().items()}
    loop.parts.model.load_state_dict(evaluated)
    return loop

"""One recipe to one finished run: build the parts, resume if there is something to resume, train, leave the result."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from traceback import format_exc
from typing import Any

import torch

from ..core.context import Context
from ..core.contracts import TOKENIZER, LoadsTokenizer, Source, Tokenizer
from ..core.digests import digest_file
from ..core.errors import DataError, NumericsError, Stopped, StorageError, UsageError, shown
from ..core.reading import user_path
from ..core.recipe import Recipe, StoredRecipe
from ..core.roles import parameter_groups
from ..ledger.audit import Audit
from ..ledger.budgets import StepCost, step_cost, steps_at, steps_within
from ..ledger.peak import matmul_rate
from ..store import machine
from ..store.names import CACHE
from ..store.references import ancestors_of
from ..store.run import Run
from .ancestors import begin, evaluated, other_models, resume_optimizer, start_of, trained_tokenizer
from .loop import Loop, Parts, Progress, refuse_other_corpus
from .memory import kept_memory
from .problem import training_rule

AUDITED_STEPS = 3
WALKED, WALKED_TOKENS = 200, 1 << 22
"""Batches, and tokens, of a text that a dry run looks at, where the budget is in bytes."""
UNDISTURBED = 0.9
"""Share of a measurement's time that this process must have had the processor, for the measurement to count."""


def train(
    recipe: Recipe,
    root: Path | str = "runs",
    *,
    name: str | None = None,
    text: str | None = None,
    threads: int | None = None,
    audit: bool = False,
    progress: Callable[[Progress], None] | None = None,
    report: Callable[[str], None] | None = None,
) -> Run:
    """Train ``recipe`` to its budget and return the finished run; a finished one is returned as it stands.

    A run that was stopped or killed goes on from its newest whole checkpoint, and ends with the same bytes.

    Args:
        root: directory of runs; token shards and tokenizers are shared in ``root/cache``.
        name: name of the run's directory; default ``<recipe.name>-<hash12>``.
        text: the recipe as the user wrote it, kept beside the resolved one.
        threads: torch threads of this process; default: leave as they are.
        audit: count the first steps' operations as they execute and refuse to go on if the ledger is off by one FLOP.
        progress: called after each step.
        report: hears what is worth a user's eye and no error: a damaged checkpoint passed over, a changed environment.

    Raises:
        NumericsError: the run diverged. Stopped: a signal. DataError, StorageError, BudgetError, UsageError.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    if recipe.budget.axis != "text_bytes":
        plan(recipe, root)  # an impossible budget leaves nothing behind
    run = Run.open(root, recipe, text=text, name=name)
    run.report = report
    with run.lock():
        if run.status.state == "diverged":
            raise NumericsError(run.status.message, where=str(run.path))
        if run.finished:
            source = recipe.source.build(text_context(recipe, run.path.parent))
            refuse_other_corpus(run, run.result.get("fingerprint", source.fingerprint), source)
            return run
        _refuse_missing(recipe.train.device)
        run.check_environment(threads=torch.get_num_threads(), device=device_name(recipe.train.device))
        run.set_status("running")
        loop, texts = None, dict[str, str]()
        try:
            if recipe.references:
                run.write_ancestors(ancestors_of(recipe.references, run.path.parent))
            if audit:
                check_ledger(assemble(recipe, run))
            loop = assemble(recipe, run)
            texts = text_digests(loop.parts.source)
            if report is not None and (left_out := getattr(loop.parts.source, "left_out", "")):
                report(left_out)
            peak = loop.peak = _peak(loop)
            loop.progress = progress
            run.set_status("running", horizon=loop.ctx.horizon)
            loop.resume()
            try:
                with kept_memory():
                    loop()
            finally:
                with suppress(StorageError):
                    run.write_ledger(loop.ledger.to_json())  # what a diverged or stopped run spent is spent
                    if peak != loop.peak:
                        machine.forget(run.path.parent, **_rate_of(loop))
        except (Stopped, KeyboardInterrupt) as stop:
            run.set_status("stopped", step=_step(loop), message=str(stop))
            raise
        except NumericsError as error:
            spent = {} if loop is None else loop.spent()
            run.write_result({"status": "diverged", "message": str(error), **spent, **texts})
            run.set_status("diverged", step=_step(loop), message=str(error))
            raise
        except BaseException as error:
            with suppress(StorageError):  # on a full disk the first error is the one to tell
                run.set_status("failed", step=_step(loop), message=shown(f"{type(error).__name__}: {error}"))
                run.event("failed", traceback=format_exc())
            raise
        run.write_result({"status": "done", **loop.outcome(), **texts, "weights_sha256": weights_digest(run)})
        run.set_status("done", step=loop.step)
    return run


def _step(loop: Loop | None) -> int | None:
    return None if loop is None else loop.step


def plan(
    recipe: Recipe, root: Path | str = "runs", source: Source | None = None, *, exact: bool = True
) -> tuple[StepCost, int]:
    """Cost of one step, and whole steps within the budget (0: the budget is in seconds).

    Builds nothing, but for a budget in text bytes, which only the text itself can solve.

    Args:
        recipe: what to train.
        root: directory of runs, where the source's tokens are cached.
        source: the text, if it is at hand.
        exact: walk the text of a budget in bytes to its end, as training must. Otherwise it is taken to go on with as
            many bytes a token as it begins with.
    """
    cost = step_cost(recipe)
    if recipe.budget.axis != "text_bytes":
        return cost, steps_within(recipe.budget, cost)
    ctx = text_context(recipe, user_path(root)).having(device="cpu")
    source = source or recipe.source.build(ctx)
    if exact:
        return cost, steps_within(recipe.budget, cost, _bytes_of_steps(_bytes_of_batches(source, ctx), ctx.accumulate))
    rows = max(1, min(ctx.batch, WALKED_TOKENS // WALKED // ctx.length))
    walked = max(1, min(WALKED, WALKED_TOKENS // (rows * ctx.length)))
    seen = list(islice(_bytes_of_batches(source, ctx.having(batch=rows)), walked))
    if rows == ctx.batch and sum(seen) > recipe.budget.limit + max(seen) * ctx.accumulate:
        return cost, steps_within(recipe.budget, cost, _bytes_of_steps(iter(seen), ctx.accumulate))
    return cost, steps_at(recipe.budget, round(sum(seen) * ctx.batch / rows / len(seen) * ctx.accumulate))


def _bytes_of_batches(source: Source, ctx: Context) -> Iterator[int]:
    """Text bytes of each batch in turn."""
    stream = source.batches(ctx)
    return (next(stream).text_bytes for _ in count())


def assemble(recipe: Recipe, run: Run) -> Loop:
    """Build every live part of a recipe; nothing is trained yet. UsageError if its device is not there."""
    root = run.path.parent
    ctx = text_context(recipe, root)
    _refuse_missing(ctx.device)
    source = recipe.source.build(ctx)
    cost, horizon = plan(recipe, root, source)
    ctx = ctx.having(horizon=horizon)
    model = recipe.policy.build(ctx).to(ctx.device)
    start = start_of(recipe, root)
    begin(model, recipe, start, source, ctx)
    models = {"policy": model, **other_models(recipe, source, ctx, root)}
    ctx = ctx.having(models=models, groups=tuple(parameter_groups(model)))
    optimizer = training_rule(recipe.optimizer.build(ctx))
    resume_optimizer(optimizer, recipe, start)
    parts = Parts(
        source=source,
        batches=source.batches(ctx),
        model=model,
        objective=recipe.objective.build(ctx),
        optimizer=optimizer,
        schedule=recipe.schedule.build(ctx),
        averaging=recipe.averaging.build(ctx) if recipe.averaging is not None else None,
        metrics=[(part.name, part.build(ctx)) for part in recipe.metrics],
    )
    return Loop(recipe, run, ctx, parts, cost)


def text_digests(source: Source) -> dict[str, str]:
    """``fingerprint`` of a source and ``heldout``, the digest of the text it evaluates ("" where it has none)."""
    digest = getattr(source, "heldout_digest", None)  # sources of text have one
    return {"fingerprint": source.fingerprint, "heldout": digest() if digest is not None else ""}


def device_name(device: str) -> str:
    """A device's full name where it is a GPU, which must be there."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device


def has_device(device: str) -> bool:
    """Whether this machine has it."""
    kind, _, index = device.partition(":")
    found = torch.accelerator.current_accelerator(check_available=True)
    count = torch.accelerator.device_count() if found is not None and found.type == kind else int(kind == "cpu")
    return int(index or 0) < count


def _refuse_missing(device: str) -> None:
    if not has_device(device):
        found = torch.accelerator.current_accelerator(check_available=True)
        there = f"cpu or {found.type}" if found is not None else "cpu"
        raise UsageError(f"this machine has no device {device}", where="train.device", fix=f"use {there}")


def _peak(loop: Loop) -> float:
    """FLOP/s of products on this machine, remembered beside the runs; 0 where others were using it too."""
    device, precision, threads = loop.ctx.device, loop.ctx.precision, torch.get_num_threads()

    def measure() -> float:
        began, used = time.perf_counter(), time.thread_time()
        rate = matmul_rate(device, precision, threads)
        share = (time.thread_time() - used) / (time.perf_counter() - began)
        return rate if share > UNDISTURBED or device != "cpu" else 0.0

    return machine.remembered(loop.run.path.parent, measure=measure, **_rate_of(loop))


def _rate_of(loop: Loop) -> dict[str, Any]:
    """What the machine's rate is remembered by."""
    what = f"largest matmul rate {loop.ctx.precision}"
    return {"what": what, "threads": torch.get_num_threads(), "device": device_name(loop.ctx.device)}


def text_context(recipe: Recipe, root: Path) -> Context:
    """``base_context`` with the tokenizer that the recipe's text is read with, which may be that of its start."""
    return base_context(recipe, root).having(tokenizer=trained_tokenizer(recipe, root))


def base_context(recipe: Recipe, root: Path, vocab_size: int | None = None) -> Context:
    """The context of a recipe before any live part exists; ``vocab_size`` where the recipe need not be asked."""
    settings = recipe.train
    return Context(
        rng=recipe.rng,
        cache=root / CACHE,
        tokenizer=recipe.tokenizer,
        vocab_size=vocab_size or recipe.vocab_size,
        batch=settings.batch,
        length=settings.length,
        accumulate=settings.accumulate,
        device=settings.device,
        precision=settings.precision,
        compile=settings.compile,
        isolate_documents=settings.isolate_documents,
    )


def _bytes_of_steps(batches: Iterator[int], accumulate: int) -> Iterator[int]:
    """Text bytes of each step in turn, of those of its batches, endlessly."""
    while True:
        yield sum(next(batches) for _ in range(accumulate))


def check_ledger(loop: Loop) -> int:
    """Take the first steps of a loop (which is spent by it) under audit; the FLOPs that they executed.

    Raises:
        UsageError: they differ from the ledger's hardware count by a single one, or cannot be audited.
    """
    ctx = loop.ctx
    if ctx.compile:
        raise UsageError("the audit counts eager operations", where="train.compile", fix="audit with compile=false")
    if ctx.device != "cpu":
        raise UsageError(
            "the ledger's hardware FLOPs are those of the CPU's kernels", where="train.device", fix="use cpu"
        )
    with Audit() as audit:
        for _ in range(AUDITED_STEPS):
            loop.train_step()
    executed, expected = int(audit.total()), loop.ledger.total("hardware_flops")
    if executed != expected:
        raise UsageError(
            f"the audit counts {executed} FLOPs in {AUDITED_STEPS} steps, the ledger {expected:.0f}",
            where=str(loop.run.path),
        )
    loop.run.event("audited", steps=AUDITED_STEPS, flops=executed)
    return executed


def weights_digest(run: Run) -> str:
    """SHA-256 of the newest checkpoint's weights file."""
    found = run.checkpoint()
    assert found is not None
    return digest_file(found[1] / "model.safetensors")


def restore(run: Run, *, device: str | None = None, report: Callable[[str], None] | None = None) -> Loop:
    """The live parts of a run at its newest checkpoint, its text included, as ``Loop.measure`` wants them.

    ``report`` hears of damaged checkpoints that are passed over. Raises UsageError if the run has no checkpoint yet,
    DataError if its corpus has changed.
    """
    recipe = run.recipe
    if device is not None:
        recipe = recipe.with_(f'train.device="{device}"')
    loop = assemble(recipe, run)
    loop.load(*_newest(run, report))  # only now: a run that is still training may have replaced an older one
    return loop


@dataclass(frozen=True)
class Trained:
    """What training leaves for use: the model with its evaluation (averaged) weights, and the tokenizer of its text.

    ``tokenizer`` is None where the source gives ids and no text.
    """

    model: torch.nn.Module
    tokenizer: Tokenizer | None
    ctx: Context


def trained(run: Run, *, device: str | None = None, report: Callable[[str], None] | None = None) -> Trained:
    """Model and tokenizer of a run's newest checkpoint; reads the run's directory and nothing else.

    ``report`` hears of damaged checkpoints that are passed over. Raises UsageError if the run has no checkpoint yet.
    """
    change = [] if device is None else [f'train.device="{device}"']
    recipe = StoredRecipe.from_json(run.resolved, *change, source=str(run.path / "resolved.json"))
    _refuse_missing(recipe.train.device)
    step, directory = _newest(run, report)
    part, tokenizer = recipe.tokenizer, None
    if isinstance(part, LoadsTokenizer) and recipe.source.vocab_size is None:
        if not (directory / TOKENIZER).exists():
            raise DataError("holds no tokenizer", where=str(directory), fix="train it again under another --name")
        tokenizer = part.load(directory / TOKENIZER)
    ctx = base_context(
        recipe, run.path.parent, tokenizer.vocab_size + recipe.objective.extra_ids if tokenizer else recipe.vocab_size
    )
    if tokenizer is None and recipe.source.vocab_size is None:
        tokenizer = part.build(iter(()))
    ctx = ctx.having(horizon=run.status.horizon)
    model, ctx = evaluated(recipe, step, directory, ctx)
    return Trained(model, tokenizer, ctx)


def _newest(run: Run, report: Callable[[str], None] | None) -> tuple[int, Path]:
    found = run.checkpoint(report)
    if found is None:
        raise _untrained(run)
    return found


def _untrained(run: Run) -> UsageError:
    """Why a run has no checkpoint, and what to do about it."""
    what, fix = "has no checkpoint yet", "train it first"
    if run.state == "diverged":
        what, fix = "diverged before its first checkpoint", "train it with a lower learning rate"
    elif run.state == "running":
        fix = "it is being trained: wait for its first one"
    return UsageError(what, where=str(run.path), fix=fix)

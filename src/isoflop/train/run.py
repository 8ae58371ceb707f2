"""One recipe to one finished run: resume if there is something to resume, train, leave the result."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from traceback import format_exc
from typing import Any

import torch

from ..core.device import Device
from ..core.digests import digest_file
from ..core.errors import NumericsError, Stopped, StorageError, UsageError, shown
from ..core.reading import user_path
from ..core.recipe import Recipe
from ..ledger.audit import Audit
from ..ledger.budgets import step_cost
from ..store import machine
from ..store.names import component
from ..store.references import ancestors_of
from ..store.removal import make_room
from ..store.run import Run
from .build import assemble, cost_and_steps, text_context, text_digests
from .devices import device_name, refuse_missing, undisturbed_rate
from .footprint import footprint
from .forecast import refuse_oversize
from .lengthen import lengthen
from .loop import Loop
from .memory import kept_memory
from .session import refuse_other_corpus
from .watch import Follower, Progress, following

AUDITED_STEPS = 3


def train(
    recipe: Recipe,
    root: Path | str = "runs",
    *,
    name: str | None = None,
    text: str | None = None,
    threads: int | None = None,
    audit: bool = False,
    lengthens: bool = False,
    branch: int = 0,
    progress: Callable[[Progress], None] | None = None,
    follower: Follower | None = None,
    warn: Callable[[str], None] | None = None,
) -> Run:
    """Train ``recipe`` to its budget and return the finished run; a finished one is returned as it stands.

    A run that was stopped or killed goes on from its newest whole checkpoint, and ends with the same bytes. So does a
    finished one whose checkpoints were deleted: it makes them again.

    Args:
        recipe: what to train.
        root: directory of runs; token shards and tokenizers are shared in ``root/cache``.
        name: name of the run's directory; default ``<recipe.name>-<hash12>``.
        text: the recipe as the user wrote it, kept beside the resolved one.
        threads: torch threads of this process; default: leave as they are.
        audit: count the first steps' operations as they execute and refuse to go on if the ledger is off by one FLOP.
        lengthens: begin with what another run under ``root`` has of this one, if it is the same recipe with another
            budget and no step so far would have been otherwise (a constant rate; one that decays, before its decay).
        branch: a step whose checkpoint is kept, so that a run with a larger budget may go on from there; 0: none.
        progress: called after each step.
        follower: hears what the run records, e.g. a tracker; it changes nothing of the run.
        warn: called with each warning, e.g. a damaged checkpoint that was skipped, or a changed environment.

    Raises:
        NumericsError: the run diverged.
        Stopped: a signal came; the state is saved.
        DataError, StorageError, BudgetError, UsageError: as their messages say.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    if recipe.budget.axis != "text_bytes":
        cost_and_steps(recipe, root)  # an impossible budget leaves nothing behind
    refuse_oversize(recipe, step_cost(recipe))
    if recipe.transforms:
        _refuse_unmade(recipe, user_path(root), name)
    if name is not None:
        make_room(user_path(root) / component(name), recipe.hash)
    run = Run.open(root, recipe, text=text, name=name)
    run.warn = warn
    say = warn or (lambda message: None)
    with run.lock(), following(run, follower) as begin:
        if run.status.state == "diverged":
            raise NumericsError(run.status.message, where=str(run.path))
        if run.finished:
            source = recipe.source.build(text_context(recipe, run.path.parent))
            refuse_other_corpus(run, run.result.get("fingerprint", source.fingerprint), source)
            if run.steps:
                say(f"{run.path}: is done already, so nothing was trained; --name makes another run of it")
                return run
            say(f"{run.path}: is done, but its checkpoints are gone: they are made again")
        with _told(run) as so_far:
            refuse_missing(recipe.train.device)
            run.check_environment(threads=torch.get_num_threads(), device=device_name(recipe.train.device))
            run.set_status("running")
            loop = _prepared(recipe, run, audit, warn)
            so_far.prepared(loop)
            if lengthens:
                lengthen(loop)
            loop.progress, loop.branch = progress, branch
            _execute(loop, begin)
        kept = {**so_far.texts, **footprint(recipe, loop.ctx.horizon), "weights_sha256": weights_digest(run)}
        run.write_result({"status": "done", **loop.outcome(), **kept})
        run.set_status("done", step=loop.step)
    return run


def _refuse_unmade(recipe: Recipe, root: Path, name: str | None) -> None:
    """UsageError if a recipe that compression makes is not made yet: no training does."""
    made = Run.find(root, recipe)
    if made is None or not made.finished or not made.steps or name not in (None, made.path.name):
        what = "are what `isoflop compress` does to a start, and no step follows them"
        raise UsageError(what, where="transforms", fix="compress that run, and train on with start= and its new name")


class _SoFar:
    """What a run's directory is told if the run ends here: where it stands, its text's digests, what it has spent."""

    loop: Loop | None = None
    texts: Mapping[str, str] = {}

    def prepared(self, loop: Loop) -> None:
        self.loop, self.texts = loop, text_digests(loop.parts.source)

    @property
    def step(self) -> int | None:
        return None if self.loop is None else self.loop.step

    @property
    def spent(self) -> dict[str, Any]:
        return {} if self.loop is None else self.loop.spent()


@contextmanager
def _told(run: Run) -> Iterator[_SoFar]:
    """While entered, whatever ends the run is written to its directory before it goes on upward."""
    so_far = _SoFar()
    try:
        yield so_far
    except (Stopped, KeyboardInterrupt) as stop:
        run.set_status("stopped", step=so_far.step, message=str(stop))
        raise
    except NumericsError as error:
        run.write_result({"status": "diverged", "message": str(error), **so_far.spent, **so_far.texts})
        run.set_status("diverged", step=so_far.step, message=str(error))
        raise
    except BaseException as error:
        with suppress(StorageError):  # on a full disk the first error is the one to tell
            run.set_status("failed", step=so_far.step, message=shown(f"{type(error).__name__}: {error}"))
            run.event("failed", traceback=format_exc())
        raise


def _prepared(recipe: Recipe, run: Run, audit: bool, warn: Callable[[str], None] | None) -> Loop:
    """A run's loop before its first step, audited if that is asked for; the run knows its horizon."""
    if recipe.references:
        run.write_ancestors(ancestors_of(recipe.references, run.path.parent))
    if audit:
        check_ledger(assemble(recipe, run))
    loop = assemble(recipe, run)
    if warn is not None and (left_out := getattr(loop.parts.source, "left_out", "")):
        warn(left_out)
    loop.remark(warn)
    device, precision = loop.ctx.device, loop.ctx.precision
    loop.peak = machine.remembered(
        run.path.parent, measure=lambda: undisturbed_rate(device, precision), **_rate_of(loop)
    )
    run.set_status("running", horizon=loop.ctx.horizon)
    return loop


def _execute(loop: Loop, begin: Callable[[int], None]) -> None:
    """Train from where the run stands, which ``begin`` is told; what it spent is written however it ends."""
    peak = loop.peak
    loop.resume()
    begin(loop.step)
    try:
        with kept_memory():
            loop()
    finally:
        with suppress(StorageError):
            loop.run.write_ledger(loop.ledger.to_json())  # what a diverged or stopped run spent is spent
            if peak != loop.peak:
                machine.forget(loop.run.path.parent, **_rate_of(loop))


def _rate_of(loop: Loop) -> dict[str, Any]:
    """What the machine's rate is remembered by."""
    what = f"largest matmul rate {loop.ctx.precision}"
    return {"what": what, "threads": torch.get_num_threads(), "device": device_name(loop.ctx.device)}


def check_ledger(loop: Loop) -> int:
    """Take the first steps of a loop (which is spent by it) under audit; the FLOPs that they executed.

    Raises:
        UsageError: they differ from the ledger's hardware count by a single one, or cannot be audited.
    """
    ctx = loop.ctx
    if ctx.compile:
        raise UsageError("the audit counts eager operations", where="train.compile", fix="audit with compile=false")
    if not Device.of(ctx.device).is_cpu:
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

"""A run that was trained, for use: at its newest checkpoint, with its text or without."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import torch
from pydantic import with_config
from typing_extensions import TypedDict  # pydantic wants this one before Python 3.12

from ..core.context import Context
from ..core.contracts import TOKENIZER, HeldOut, KeepsText, LoadsTokenizer, Measurement, Source, Subject, Tokenizer
from ..core.errors import DataError, UsageError
from ..core.origins import describe, fill
from ..core.reading import read_json
from ..core.recipe import Recipe, StoredRecipe
from ..store.records import OPEN
from ..store.run import Run
from .ancestors import evaluated, other_models
from .build import assemble, base_context, text_context
from .devices import refuse_missing
from .session import Session


def restore(run: Run, *, device: str | None = None, warn: Callable[[str], None] | None = None) -> Session:
    """A run with its live parts at its newest checkpoint, its text included: what ``Session.measure`` needs.

    The text is that which the run began with, as the cache keeps it; made anew from the files where it does not.

    Args:
        run: the run.
        device: where to build it; default: where it was trained.
        warn: called with each warning, e.g. a damaged checkpoint that was skipped.

    Raises:
        UsageError: the run has no checkpoint yet.
        DataError: its corpus has changed.
    """
    recipe = run.recipe
    if device is not None:
        recipe = recipe.with_(f'train.device="{device}"')
    source = None
    if isinstance(recipe.source, KeepsText):
        _, directory = _newest(run, lambda message: None)
        fingerprint = read_json(directory / "state.json", _State)["fingerprint"]
        source = recipe.source.kept(fingerprint, text_context(recipe, run.path.parent))
    session = assemble(recipe, run, source)
    # Only now: a run that is still training may have replaced an older one.
    session.load(*_newest(run, warn), training=False)
    session.remark(warn)
    return session


@with_config(OPEN)
class _State(TypedDict):
    """What is read here of a checkpoint's ``state.json``."""

    fingerprint: str


@dataclass(frozen=True)
class Trained:
    """What training leaves for use.

    Args:
        recipe: what was trained.
        step: steps that had been taken.
        model: with its evaluation (averaged) weights.
        tokenizer: of its text; None where the source gives ids and no text.
        ctx: what the model was built with.
        reach: tokens of the longest text that it was trained on.
        remarks: what a user should know of it, as sentences.
    """

    recipe: Recipe
    step: int
    model: torch.nn.Module
    tokenizer: Tokenizer | None
    ctx: Context
    reach: int
    remarks: tuple[str, ...] = ()

    def causal(self, where: str) -> Trained:
        """Itself, if it was trained to say what comes next, as whoever reads or writes from left to right asks.

        Args:
            where: how the user named it.

        Raises:
            UsageError: it was trained to see what follows.
        """
        if any(pattern is not None for pattern in self.recipe.objective.patterns):
            what = "was trained to see what follows, and is asked for what comes next"
            raise UsageError(what, where=where, fix="name a causal model")
        return self

    def measure(self, heldout: Mapping[str, HeldOut]) -> dict[str, Measurement]:
        """Every metric of the recipe on held-out data by domain: any text in the tokenizer's ids, not the run's own.

        Raises:
            DataError: another model that the objective needs is gone.
        """
        root, source = self.ctx.cache.parent, SimpleNamespace(tokenizer=self.tokenizer)
        others = other_models(self.recipe, cast(Source, source), self.ctx, root)
        ctx = self.ctx.having(models={**self.ctx.models, **others})
        subject = Subject(self.model, self.recipe.objective.build(ctx), ctx)
        rng = self.recipe.rng("evaluation")
        return {part.name: part.build(ctx).measure(subject, heldout, rng(part.name)) for part in self.recipe.metrics}


def trained(run: Run, *, device: str | None = None, warn: Callable[[str], None] | None = None) -> Trained:
    """Model and tokenizer of a run's newest checkpoint; reads the run's directory and nothing else.

    Args:
        run: the run.
        device: where to build it; default: where it was trained.
        warn: called with each warning, e.g. a damaged checkpoint that was skipped.

    Raises:
        UsageError: the run has no checkpoint yet.
    """
    step, directory = _newest(run, warn)
    recipe, tokenizer, ctx = context_of(run, directory, device)
    model, ctx = evaluated(recipe, step, directory, ctx)
    return Trained(recipe, step, model, tokenizer, ctx, recipe.train.length)


WINDOW = 1024
"""Tokens at a time on which a published model is measured, unless it knows fewer."""


def published(directory: Path, *, device: str | None = None, precision: str = "fp32") -> Trained:
    """Model and tokenizer of a published model's directory, as if it had been trained here.

    Args:
        directory: in Hugging Face's layout.
        device: where to build it; default: the CPU.
        precision: of products, "fp32" or "bf16".

    Raises:
        DataError: it cannot be read. UsageError: no tokenizer lies in it.
    """
    facts = describe(str(directory), directory.parent, None)
    parts = dict(facts["resolved"])
    filling = parts.pop("filling", None)
    if "tokenizer" not in parts:
        fix = "copy tokenizer.json and tokenizer_config.json there"
        raise UsageError("holds no tokenizer", where=str(directory), fix=fix)
    settings = {"length": min(facts["context"], WINDOW), "device": device or "cpu", "precision": precision}
    tree = {**parts, "name": "published", "source": "stdlib", "budget": {"steps": 1}, "train": settings}
    recipe = StoredRecipe.from_json(tree, source=str(directory))
    refuse_missing(recipe.train.device)
    tokenizer = recipe.tokenizer.build(iter(()))
    ctx = base_context(recipe, directory.parent, facts["vocab_size"]).having(filling=filling)
    model = fill(directory, recipe.model, ctx).eval().requires_grad_(False)
    ctx = ctx.having(models={"policy": model})
    return Trained(recipe, 0, model, tokenizer, ctx, facts["context"], tuple(facts["remarks"]))


def context_of(run: Run, directory: Path, device: str | None = None) -> tuple[Recipe, Tokenizer | None, Context]:
    """The recipe of a run, its tokenizer as a checkpoint keeps it, and the context to build its parts with.

    Args:
        run: the run.
        directory: the checkpoint.
        device: where to build; default: where it was trained.
    """
    change = [] if device is None else [f'train.device="{device}"']
    recipe = StoredRecipe.from_json(run.resolved, *change, source=str(run.path / "resolved.json"))
    refuse_missing(recipe.train.device)
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
    return recipe, tokenizer, ctx.having(horizon=run.status.horizon)


def _newest(run: Run, warn: Callable[[str], None] | None) -> tuple[int, Path]:
    found = run.checkpoint(warn)
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

"""From a recipe to its live parts, and what they will cost; nothing is trained here."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path

from ..core.context import Context
from ..core.contracts import Source
from ..core.reading import user_path
from ..core.recipe import Recipe
from ..core.roles import parameter_groups
from ..ledger.budgets import StepCost, step_cost, steps_at, steps_within
from ..store.names import CACHE
from ..store.run import Run
from .ancestors import adopt, begin, other_models, resume_optimizer, start_of, trained_tokenizer
from .devices import refuse_missing
from .loop import Loop
from .parts import Parts, Watched, give_curvature
from .problem import training_rule

WALKED, WALKED_TOKENS = 200, 1 << 22
"""Batches, and tokens, of a text that a dry run looks at, where the budget is in bytes."""


def assemble(recipe: Recipe, run: Run, source: Source | None = None) -> Loop:
    """Build every live part of a recipe; nothing is trained yet. UsageError if its device is not there.

    Args:
        recipe: what is built.
        run: its directory.
        source: its text, where it is at hand already.
    """
    root = run.path.parent
    ctx = text_context(recipe, root)
    refuse_missing(ctx.device)
    source = source or recipe.source.build(ctx)
    cost, horizon = cost_and_steps(recipe, root, source)
    ctx = ctx.having(horizon=horizon)
    watched = Watched.of(ctx)
    model = recipe.policy.build(watched).to(ctx.device)
    start = start_of(recipe, root)
    begin(model, recipe, start, source, ctx, root)
    adopt(model, recipe, source, ctx, root)
    models = {"policy": model, **other_models(recipe, source, ctx, root)}
    ctx = ctx.having(models=models, groups=tuple(parameter_groups(model)))
    watched = Watched.of(ctx, watched.asked)
    optimizer = training_rule(recipe.optimizer.build(watched))
    resume_optimizer(optimizer, recipe, start)
    give_curvature(model, optimizer)
    parts = Parts(
        source=source,
        batches=source.batches(watched),
        model=model,
        objective=recipe.objective.build(watched),
        optimizer=optimizer,
        schedule=recipe.schedule.build(ctx),
        averaging=recipe.averaging.build(watched) if recipe.averaging is not None else None,
        metrics=[(part.name, part.build(ctx)) for part in recipe.metrics],
    )
    return Loop(recipe, run, ctx, parts, cost=cost, knows_length=bool(watched.asked))


def text_digests(source: Source) -> dict[str, str]:
    """``fingerprint`` of a source and ``heldout``, the digest of the text it evaluates ("" where it has none)."""
    digest = getattr(source, "heldout_digest", None)  # sources of text have one
    return {"fingerprint": source.fingerprint, "heldout": digest() if digest is not None else ""}


def cost_and_steps(
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


def text_context(recipe: Recipe, root: Path) -> Context:
    """``base_context`` with the tokenizer that the recipe's text is read with, which may be that of its start."""
    return base_context(recipe, root).having(tokenizer=trained_tokenizer(recipe, root))


def base_context(recipe: Recipe, root: Path, vocab_size: int | None = None) -> Context:
    """The context of a recipe before any live part exists; ``vocab_size`` where the recipe need not be asked."""
    settings, vocab_size = recipe.train, vocab_size or recipe.vocab_size
    return Context(
        rng=recipe.rng,
        cache=root / CACHE,
        tokenizer=recipe.tokenizer,
        vocab_size=vocab_size,
        batch=settings.batch,
        length=settings.length,
        accumulate=settings.accumulate,
        device=settings.device,
        precision=settings.precision,
        compile=settings.compile,
        isolate_documents=settings.isolate_documents,
        filling=recipe.objective.filling(vocab_size),
    )


def _bytes_of_steps(batches: Iterator[int], accumulate: int) -> Iterator[int]:
    """Text bytes of each step in turn, of those of its batches, endlessly."""
    while True:
        yield sum(next(batches) for _ in range(accumulate))

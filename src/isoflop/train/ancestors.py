"""Models that were trained before: those that a run begins with, and those that it uses beside the trained one."""

from __future__ import annotations

from collections.abc import Container, Mapping
from pathlib import Path

import torch

from ..core.context import Context
from ..core.contracts import (
    PLACE,
    TOKENIZER,
    Adopts,
    HasLowRank,
    LoadsTokenizer,
    LowRank,
    Optimizer,
    Source,
    Stateful,
    TokenizerPart,
    added,
    begin_from_weights,
    merged,
    owned,
)
from ..core.errors import DataError, UsageError
from ..core.origins import describe, fill, updates
from ..core.reading import user_path
from ..core.recipe import Recipe, StoredRecipe
from ..core.references import Reference
from ..core.roles import parameter_groups
from ..core.slots import resolve
from ..core.tokenizer import GivenTokenizer, ReadsFiles, disagreement
from ..store.references import Found, locate
from .parts import evaluation_weights, tell, timed
from .problem import training_rule
from .session import OPTIMIZER, cleared
from .state import load_tensors, load_tree


def trained_tokenizer(recipe: Recipe, root: Path) -> TokenizerPart:
    """The recipe's tokenizer part; of a run that starts from another one, the tokenizer that was trained for that."""
    part = recipe.tokenizer
    if recipe.start is None or recipe.start.published:
        return part
    if not isinstance(part, LoadsTokenizer) or isinstance(part, ReadsFiles):
        return part
    found = locate("start", recipe.start, root)
    if TOKENIZER not in found.files:
        return part
    return GivenTokenizer(part=part, path=str(found.directory / TOKENIZER), digest=found.files[TOKENIZER])


def evaluated(
    recipe: Recipe, step: int, directory: Path, ctx: Context, *, without: Container[str] = ()
) -> tuple[torch.nn.Module, Context]:
    """The model of a checkpoint with its evaluation (averaged) weights, and its context.

    Args:
        recipe: of the run.
        step: of the checkpoint.
        directory: the checkpoint.
        ctx: what to build with, its horizon the run's.
        without: parts ("optimizer") whose state is not taken up.
    """
    model = recipe.policy.build(ctx).to(ctx.device)
    model.load_state_dict(load_tensors(directory / "model.safetensors"))
    tell(timed(model), step - 1, ctx.horizon)
    ctx = ctx.having(models={"policy": model}, groups=tuple(parameter_groups(model)))
    optimizer = training_rule(recipe.optimizer.build(ctx))
    averaging = recipe.averaging.build(ctx) if recipe.averaging is not None else None
    state = load_tree(directory, "state")["parts"]
    for name, live in ((OPTIMIZER, optimizer), ("averaging", averaging)):
        cleared_away = name == OPTIMIZER and name not in state
        if isinstance(live, Stateful) and not cleared_away and name not in without:
            live.load_state_dict(state[name])
    with evaluation_weights(optimizer, averaging):
        weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(weights)
    return model.eval(), ctx


def other_models(recipe: Recipe, source: Source, ctx: Context, root: Path) -> dict[str, torch.nn.Module]:
    """The models that ``recipe.models`` names, by name: frozen, in evaluation use, on the context's device.

    Raises:
        DataError: one is gone or another by now.
        UsageError: one was trained on another vocabulary.
    """
    models = {}
    used = {name for _, part in recipe.parts() for name in part.uses}
    for name, reference in recipe.models.items():
        if name not in used:
            continue
        own = ctx.having(vocab_size=reference.vocab_size, models={}, groups=())
        if reference.published:
            directory = _refuse_other_directory(f"models.{name}", reference, recipe, source, root)
            models[name] = fill(directory, reference.model, own).eval().requires_grad_(False)
            continue
        found = locate(f"models.{name}", reference, root)
        _refuse_other_text(f"models.{name}: {reference.run}", found, source)
        model = reference.model.build(own).to(ctx.device)
        theirs = _plain_weights(found, own)
        model.load_state_dict({name: tensor for name, tensor in theirs.items() if not owned(name)})
        models[name] = model.eval().requires_grad_(False)
    return models


def start_of(recipe: Recipe, root: Path) -> Found | None:
    """The checkpoint of ours that a recipe starts from, if it does; DataError if it is gone or another by now."""
    return None if recipe.start is None or recipe.start.published else locate("start", recipe.start, root)


def begin(
    model: torch.nn.Module, recipe: Recipe, found: Found | None, source: Source, ctx: Context, root: Path
) -> None:
    """Give ``model`` the weights that the recipe starts from, if it does.

    Parametrizations that it adds stay new, and so do ids and parameters that its objective adds.

    Raises:
        UsageError: they were trained on another vocabulary. DataError: a published model is another by now.
    """
    if recipe.start is None or recipe.transforms:  # what transforms made of it is given by whoever applies them
        return
    if recipe.start.published:
        directory = _refuse_other_directory("start", recipe.start, recipe, source, root)
        if recipe.start.vocab_size == ctx.vocab_size:
            fill(directory, recipe.model, ctx, model)
        else:
            other = fill(directory, recipe.model, ctx.having(vocab_size=recipe.start.vocab_size))
            model.load_state_dict(_grown(other.state_dict(), model))
        begin_from_weights(model)
        return
    if found is None:
        return
    _refuse_other_text(f"start: {recipe.start.run}", found, source)
    if recipe.start.optimizer:
        model.load_state_dict(load_tensors(found.directory / "model.safetensors"))
        return
    theirs = _plain_weights(found, ctx.having(models={}, groups=(), vocab_size=recipe.start.vocab_size))
    model.load_state_dict(_grown(theirs, model))
    begin_from_weights(model)


def _grown(theirs: Mapping[str, torch.Tensor], model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Weights that a model begins with, and what of its own they do not have: rows of new ids, additions, heads."""
    ours = model.state_dict()
    found = {name: tensor for name, tensor in ours.items() if added(name) or owned(name)}
    for name, tensor in theirs.items():
        if name in ours or not owned(name):  # what another objective owned is left behind
            new = ours[name][len(tensor) :] if name in ours and tensor.dim() == 2 else tensor[:0]
            found[name] = torch.cat((tensor.to(new.device), new)) if len(new) else tensor
    return found


def adopt(model: torch.nn.Module, recipe: Recipe, source: Source, ctx: Context, root: Path) -> None:
    """Give the parametrizations of ``model`` the updates of the other models that they take up, if they do.

    Raises:
        DataError: one is gone or another by now.
        UsageError: one was trained on other weights, or another vocabulary.
    """
    names = () if recipe.parametrization is None else recipe.parametrization.adopts
    if not names:
        return
    held: list[Mapping[str, LowRank]] = []
    ours = {name: tensor for name, tensor in model.state_dict().items() if not added(name)}
    places = {
        name: module for name, module in model.named_modules() if isinstance(getattr(module, PLACE, None), Adopts)
    }
    for name in names:
        where = f"models.{name}: {recipe.models[name].run}"
        if recipe.models[name].adapter:
            held.append(_updates_of(recipe.models[name], recipe, ours, places, where, root))
            continue
        found = locate(f"models.{name}", recipe.models[name], root)
        _refuse_other_text(where, found, source)
        other = _evaluated(found, ctx.having(models={}, groups=()))
        theirs = other.state_dict()
        for key, tensor in ours.items():
            if key not in theirs or not torch.equal(tensor.cpu(), theirs[key]):
                what = f"is an adapter of other weights than this run's ({key} differs)"
                raise UsageError(what, where=where, fix="train the adapters and this run from the same start")
        live = {path: getattr(module, PLACE, None) for path, module in other.named_modules()}
        held.append({path: own.low_rank() for path, own in live.items() if isinstance(own, HasLowRank)})
    for path, module in places.items():
        getattr(module, PLACE).adopt([updates.get(path) for updates in held])


def _updates_of(
    reference: Reference,
    recipe: Recipe,
    ours: Mapping[str, torch.Tensor],
    places: Container[str],
    where: str,
    root: Path,
) -> Mapping[str, LowRank]:
    """What an adapter's directory holds for this run's matrices; an error if it is another by now, or does not fit."""
    describe(reference.run, root, reference.digest)
    start = recipe.start
    base = user_path(start.run) if start is not None and start.published else None
    found: Mapping[str, LowRank] = updates(user_path(reference.run), base)
    for path, update in found.items():
        shape = (update.b.shape[0], update.a.shape[1])
        if path not in places:
            what = f"adapts {path!r}, which this run's parametrization does not stand in for"
            raise UsageError(what, where=where, fix="is it an adapter of another model, or are targets too few?")
        if tuple(ours[f"{path}.weight"].shape) != shape:
            what = f"updates {path!r} by {list(shape)}, but it has shape {list(ours[f'{path}.weight'].shape)}"
            raise UsageError(what, where=where, fix="name an adapter of this model")
    return found


def resume_optimizer(optimizer: Optimizer, recipe: Recipe, found: Found | None) -> None:
    """Give the optimizer the state that the recipe starts from, if it keeps that."""
    if recipe.start is not None and recipe.start.optimizer and found is not None:
        state = load_tree(found.directory, "state")["parts"]
        if OPTIMIZER not in state:
            raise cleared(found.directory)
        optimizer.load_state_dict(state[OPTIMIZER])


def _plain_weights(found: Found, ctx: Context) -> dict[str, torch.Tensor]:
    """The evaluation weights of a checkpoint by name, parametrizations baked in, as a model without any wants them."""
    return merged(_evaluated(found, ctx))


def _evaluated(found: Found, ctx: Context) -> torch.nn.Module:
    """The model of a checkpoint with its evaluation weights, on the CPU."""
    source = str(found.run.path / "resolved.json")
    settings = (f"train.precision={ctx.precision}", "train.device=cpu", "train.compile=false")
    recipe = StoredRecipe.from_json(found.run.resolved, *settings, source=source)
    ctx = ctx.having(device="cpu", compile=False, rng=recipe.rng, horizon=found.run.status.horizon)
    model, _ = evaluated(recipe, found.step, found.directory, ctx)
    return model


def _refuse_other_directory(key: str, reference: Reference, recipe: Recipe, source: Source, root: Path) -> Path:
    """The directory of a published model; an error if it is another by now, or its ids stand for other text."""
    facts = describe(reference.run, root, reference.digest)
    where = f"{key}: {reference.run}"
    if facts["recipe"] != reference.recipe:
        what = f"has a configuration with digest {facts['recipe'][:12]}, the recipe names {reference.recipe[:12]}"
        raise DataError(what, where=where, fix="restore it from a copy, or name the directory anew for another recipe")
    ours, tree = getattr(source, "tokenizer", None), facts["resolved"].get("tokenizer")
    if ours is None:
        raise UsageError("knows text where this recipe has ids", where=where)
    if tree is not None and tree != recipe.tokenizer.model_dump(mode="json"):
        part = resolve("tokenizer", tree)
        assert isinstance(part, TokenizerPart)
        if differs := disagreement(ours, part.build(iter(()))):
            raise UsageError(
                f"its vocabulary is another than this recipe's ({differs})", where=where, fix="use its tokenizer"
            )
    return user_path(reference.run)


def _refuse_other_text(where: str, found: Found, source: Source) -> None:
    """UsageError if the ids of a model stand for other text than those of the source."""
    ours = getattr(source, "tokenizer", None)  # sources of text have one
    stored = StoredRecipe.from_json(found.run.resolved, source=str(found.run.path / "resolved.json"))
    if (ours is None) != (stored.source.vocab_size is not None):
        raise UsageError("knows ids where this recipe has text, or text where it has ids", where=where)
    if ours is None:
        return
    part = stored.tokenizer
    kept = found.directory / TOKENIZER
    if isinstance(part, LoadsTokenizer) and not kept.exists():
        raise DataError("holds no tokenizer", where=where, fix="train it again under another --name")
    theirs = part.load(kept) if isinstance(part, LoadsTokenizer) else part.build(iter(()))
    if differs := disagreement(ours, theirs):
        kind = part.name if isinstance(part, ReadsFiles) else "file"
        raise UsageError(
            f"its vocabulary is another than this recipe's ({differs})",
            where=where,
            fix=f'use its tokenizer: tokenizer={{name="{kind}", path="{kept}"}}'
            if kept.exists()
            else "use its tokenizer",
        )

"""The verb on shapes: sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..core.errors import UsageError
from .app import app
from .common import Json, Overrides, emit, say
from .training import Threads, use_threads

if TYPE_CHECKING:
    from ..core.recipe import Recipe
    from ..models.architectures.transformer import TransformerPart
    from ..models.product_rates import TimedShape

VARIED = ("model.d_model", "model.layers", "model.mixer.heads", "model.feed_forward.hidden")
"""Keys of a recipe that each shape sets itself."""


@app.command()
def sizes(
    overrides: Overrides = None,
    parameters: Annotated[
        float, typer.Option("--parameters", help="Wanted, embedding and head counted, e.g. 3e6.", metavar="NUMBER")
    ] = 3e6,
    recipe: Annotated[
        str, typer.Option("--recipe", help="Whose model, vocabulary, batch and device: a file or a shipped one.")
    ] = "small",
    choices: Annotated[int, typer.Option("--choices", min=1, max=32, help="Shapes at most.")] = 6,
    experts: Annotated[
        str,
        typer.Option(
            "--experts",
            help="Of a model with experts, numbers of them that are tried: "
            "isoflop sizes --parameters 3e6 --experts 4,16 model.feed_forward=experts",
            metavar="N,N",
        ),
    ] = "",
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Turns in which the shapes are timed.")] = 5,
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Time the products of models of about so many parameters, from deep to wide, and name the efficient shapes.

    For example: isoflop sizes --parameters 3e6 tokenizer.vocab_size=1024 train.batch=8
    """
    from ..core.recipe import Recipe
    from ..models.architectures.transformer import TransformerPart
    from ..models.product_rates import efficient, time_shapes
    from ..models.sizing import shapes_near
    from ..train.devices import refuse_missing

    for override in overrides or []:
        if (key := override.partition("=")[0].strip()) in VARIED:
            raise UsageError("is what the shapes differ in", where=key, fix="leave it out")
    asked = Recipe.load(recipe, *(overrides or []))
    if not isinstance(asked.model, TransformerPart):
        raise UsageError(f"{asked.model.name} has no shapes to choose from", where="model", fix="use a transformer")
    refuse_missing(asked.train.device)
    if not 0 < parameters < 1e13:
        raise UsageError(f"{parameters:g} parameters cannot be", where="--parameters", fix="e.g. --parameters 3e6")
    parts = [
        shape
        for part in _with_experts(asked.model, _numbers(experts))
        for shape in shapes_near(part, parameters, asked.vocab_size, choices)
    ]
    use_threads(threads)
    found = time_shapes(
        parts,
        asked.vocab_size,
        batch=asked.train.batch,
        length=asked.train.length,
        repeats=repeats,
        device=asked.train.device,
        precision=asked.train.precision,
        say=(lambda line: None) if json else (lambda line: typer.echo(line, err=True)),
    )
    best = efficient(found)
    facts = [_facts(shape, shape in best) for shape in found]
    if json:
        emit({"shapes": facts, "efficient": [_overrides(shape.part) for shape in best]})
        return
    _print(facts, best, asked, parameters)


def _numbers(text: str) -> list[int]:
    try:
        return [int(each) for each in text.split(",") if each]
    except ValueError:
        raise UsageError(f"{text!r} are no numbers", where="--experts", fix="e.g. --experts 4,16") from None


def _with_experts(part: TransformerPart, numbers: list[int]) -> list[TransformerPart]:
    """The part with each number of experts; itself where none is asked for."""
    if not numbers:
        return [part]
    inner = part.feed_forward
    if isinstance(inner, tuple) or "experts" not in type(inner).model_fields:
        raise UsageError("the model has no experts", where="--experts", fix="add model.feed_forward=experts")
    made = [part.model_copy(update={"feed_forward": inner.model_copy(update={"experts": n})}) for n in numbers]
    for each in made:
        if problems := each.feed_forward.problems(each.d_model):  # type: ignore[union-attr]
            raise UsageError(problems[0], where="--experts")
    return made


def _facts(shape: TimedShape, efficient: bool) -> dict[str, Any]:
    inner = shape.part.feed_forward
    number = getattr(inner, "experts", None)
    return {
        "d_model": shape.part.d_model,
        "layers": shape.part.layers,
        **({} if number is None else {"experts": number}),
        "parameters": shape.parameters,
        "flops_per_token": shape.flops,
        "flops_per_second": shape.rate,
        "spread": shape.spread,
        "tokens_per_second": shape.tokens_per_second,
        "efficient": efficient,
    }


def _overrides(part: TransformerPart) -> list[str]:
    """What gives a recipe this shape, as overrides."""
    found = [f"model.d_model={part.d_model}", f"model.layers={part.layers}"]
    for key in ("mixer", "feed_forward"):
        inner = getattr(part, key)
        if isinstance(inner, tuple):
            continue
        fields = [name for name in ("heads", "hidden", "experts") if name in type(inner).model_fields]
        found += [f"model.{key}.{name}={getattr(inner, name)}" for name in fields]
    return found


def _print(facts: list[dict[str, Any]], best: list[TimedShape], asked: Recipe, parameters: float) -> None:
    from ..models.product_rates import WITHIN
    from ..report.sheets import Sheet
    from ..report.terminal import grid, output
    from ..report.text import si

    several = any("experts" in each for each in facts)
    lines = [
        (
            str(each["d_model"]),
            str(each["layers"]),
            *([str(each.get("experts", ""))] if several else []),
            f"{each['parameters']:,}",
            si(each["flops_per_second"], "FLOP/s"),
            f"{each['spread']:.2f}",
            f"{each['tokens_per_second']:,.0f}",
            "efficient" if each["efficient"] else "",
        )
        for each in facts
    ]
    columns = (
        "d_model",
        "layers",
        *(["experts"] if several else []),
        "parameters",
        "products",
        "spread",
        "tokens/s",
        "",
    )
    sheet = Sheet(
        f"Shapes of about {parameters:,.0f} parameters with {asked.vocab_size:,} ids",
        columns,
        lines,
        frozenset(range(len(columns) - 1)),
        "Products of weights alone, forward and backward: training reaches less, as norms, attention and updates take "
        f"time. Spread: the fastest turn over the slowest. Efficient: within {WITHIN:.0%} of the most tokens.",
    )
    output().print(grid(sheet))
    say(f"\nthe quickest: {' '.join(_overrides(best[0].part))}")

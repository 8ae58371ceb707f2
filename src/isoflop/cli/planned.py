"""From a plan to the recipe that the trainer runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import DataError, UsageError

if TYPE_CHECKING:
    from ..core.recipe import Recipe
    from ..laws.plan.answer import Answer, Plan
    from ..laws.plan.draws import Basis

VOCABULARY, LENGTH = 32768, 1024
"""Ids and context of a planned recipe, unless overridden."""
MICRO = 32
"""Most sequences of a micro-batch: a larger batch is accumulated."""
SMALL = 1e8
"""Parameters from which on a run is planned for an accelerator in bf16."""


@dataclass(frozen=True)
class BatchAdvice:
    """What a batch law says of the planned run; None: nothing.

    Attributes:
        tokens: of one step.
        sequences: of one step, where the law counts in those.
        rate: learning rate.
        said: where each comes from.

    Example:
        >>> BatchAdvice(tokens=65536.0).rows(1024)
        64
    """

    tokens: float | None = None
    sequences: float | None = None
    rate: float | None = None
    said: tuple[str, ...] = field(default=())

    def rows(self, length: int) -> int | None:
        """Sequences of one step of that length."""
        wanted = self.sequences if self.tokens is None else self.tokens / length
        return None if wanted is None else max(1, round(wanted))


@dataclass(frozen=True)
class PlannedRecipe:
    """The recipe of a plan, and what a reader must know of it."""

    recipe: Recipe
    parameters: int
    notes: tuple[str, ...]

    def to_toml(self) -> str:
        """TOML with the notes above it."""
        return "".join(f"# {note}\n" for note in self.notes) + self.recipe.to_toml()


def run_of(plan: Plan, params: float | None = None, tokens: float | None = None) -> tuple[float, float]:
    """(N, D) of the run that a plan chooses: of several answers the last one that says both.

    Args:
        plan: the answers.
        params: N, as asked for, where no answer says it.
        tokens: D, likewise.

    Raises:
        DataError: no answer says a size and tokens, or one has no finite value.
    """
    for answer in reversed(plan.answers):
        found = {figure.name: figure.value for figure in answer.figures if figure.name in ("N", "D")}
        if len(found) == 2:
            params, tokens = found["N"], found["D"]
            break
    if params is None or tokens is None or not max(params, tokens) < float("inf"):
        raise DataError(
            "the plan has no size and tokens", where="plan", fix="ask for a run: --compute C, --loss L, or N and D"
        )
    return params, tokens


def recipe_of(
    size: float, tokens: float, overrides: Sequence[str] = (), batch: BatchAdvice | None = None, title: str = "a plan"
) -> PlannedRecipe:
    """A Transformer of about ``size`` parameters on ``tokens`` tokens; what overrides say goes before what is planned.

    Args:
        size: N, of all parameters.
        tokens: D.
        overrides: ``key.path=value``, e.g. the tokenizer's vocabulary or the source.
        batch: what a batch law says.
        title: of the plan, for the file's first line.

    Raises:
        UsageError: no shape has so many parameters.
        RecipeError: an override that does not fit.

    Example:
        >>> made = recipe_of(1e7, 2e8, ["tokenizer.vocab_size=4096"])
        >>> made.recipe.budget.tokens, round(made.parameters / 1e7, 1)
        (200000000, 1.0)
    """
    from ..core.recipe import Recipe
    from ..core.roles import numel
    from ..models.architectures.transformer import TransformerPart
    from ..models.sizing import sized

    batch = batch or BatchAdvice()
    keys = [text.partition("=")[0].strip() for text in overrides]
    tree: dict[str, Any] = {
        "name": "planned",
        "source": "stdlib",
        "tokenizer": {"name": "bpe", "vocab_size": VOCABULARY},
        "model": {"name": "transformer"},
        "budget": {} if any(key.split(".")[0] == "budget" for key in keys) else {"tokens": round(tokens)},
        "train": {"length": LENGTH},
    }
    if size >= SMALL:
        tree["train"] |= {"device": "cuda", "precision": "bf16"}
    asked = Recipe.from_json(tree, *overrides, source="the planned recipe")
    if not isinstance(asked.model, TransformerPart):
        raise UsageError(
            f"{asked.model.name} has no size by rule", where="--recipe", fix="leave the model a transformer"
        )
    tree["model"] = sized(asked.model, size, asked.vocab_size).model_dump(mode="json", exclude_none=True)
    rows = batch.rows(asked.train.length)
    if rows is not None:
        micro = min(rows, MICRO)
        tree["train"] |= {"batch": micro, "accumulate": max(1, round(rows / micro))}
    if batch.rate is not None:
        tree["optimizer"] = {"name": asked.optimizer.name, "lr": batch.rate}
    made = Recipe.from_json(tree, *overrides, source="the planned recipe")
    count = numel(made.policy.all_shapes(made.vocab_size))
    return PlannedRecipe(made, count, _notes(title, size, tokens, count, keys, batch))


def _notes(
    title: str, size: float, tokens: float, count: int, keys: Sequence[str], batch: BatchAdvice
) -> tuple[str, ...]:
    """What was planned, and what was not."""

    def given(*paths: str) -> bool:
        return any(key == path or key.startswith(f"{path}.") for key in keys for path in paths)

    notes = [
        f"From {title}: N = {size:.4g}, D = {tokens:.4g}.",
        f"The model has {count:,} parameters, embedding and head counted: {count / size - 1:+.1%} of the planned N.",
        *batch.said,
    ]
    left = [] if given("source") else ["source: name your own text, as large as the budget"]
    if batch.rows(LENGTH) is None and not given("train.batch", "train.accumulate"):
        left.append("train.batch: no batch law was given")
    if batch.rate is None and not given("optimizer.lr", "optimizer"):
        left.append("optimizer.lr: no law of the rate was given, the default is no choice for this size")
    return (*notes, *(f"Left to you: {line}." for line in left))


def advice(answer: Answer) -> BatchAdvice:
    """What an answer of batch and rate says to a recipe.

    Args:
        answer: of ``isoflop.laws.plan.batch.together``.
    """
    keys = {"critical batch": "sequences", "batch": "tokens", "learning rate": "rate"}
    own = [figure for figure in answer.figures if figure.name in keys]
    said = [f"{f.name} {f.value:.3g} {f.unit} [{f.low:.3g}, {f.high:.3g}]: {f.note}" for f in own]
    return BatchAdvice(**{keys[f.name]: f.value for f in own}, said=tuple(" ".join(line.split()) for line in said))


def bases_from(files: Sequence[Path]) -> dict[str, Basis]:
    """Fits of ``critical_batch`` and ``step_law``, read or made, by the file's name and what they tell.

    A table with B or B_crit is asked for the critical batch, one with lr for the rate, one with batch for the batch.

    Args:
        files: of each a stored fit, or a CSV table.

    Raises:
        DataError: a table of neither law.
    """
    from ..store.names import printable

    found: dict[str, Basis] = {}
    for file in files:
        for basis in _bases(file):
            name = printable(file.name)
            found[name if name not in found else f"{name}: {getattr(basis.fit.law, 'of', len(found))}"] = basis
    return found


def _bases(file: Path) -> list[Basis]:
    """A fit, or those that a table allows."""
    from ..core.table_files import read_table
    from ..laws import CriticalBatch, StepLaw, refit
    from ..laws.law import Law
    from ..laws.plan.draws import basis_of

    if file.suffix == ".json":
        return [basis_of(refit(file), 0.9)]
    table = read_table(file)
    laws: list[Law] = [CriticalBatch()] if {"B", "B_crit"} & set(table) else []
    laws += [StepLaw(of=of) for of in ("lr", "batch") if of in table]
    if not laws:
        raise DataError(
            "is a table of no batch law", where=str(file), fix="give columns N, B, steps, or N, D, lr, batch, loss"
        )
    return [basis_of(law.fit(table), 0.9) for law in laws]

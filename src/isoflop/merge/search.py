"""Evolutionary merging: CMA-ES over weights and densities by block and kind of tensor, with any probe as fitness.

The space follows Akiba et al. 2024 (arXiv 2403.13187, parameter space). Each number of a merge becomes a gene; the
best trial is an ordinary merge. A search is a function of its seed: killed, it replays the trials on disk and goes on.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w

from ..core.cost import ZERO, Cost
from ..core.digests import digest
from ..core.errors import DataError, UsageError
from ..core.files import alone_in, append_jsonl, mend_jsonl, write_atomic, write_json
from ..core.reading import read_jsonl
from ..core.rng import Rng
from ..ledger.ledger import Ledger
from .recipe import MergeRecipe

TRIALS, BEST, BILL = "trials.jsonl", "merge.toml", "ledger.json"
_OLDER = {"model": "flops", "hardware": "executed"}
"""What trials of older searches call amounts."""
BOUNDS: dict[str, tuple[float | None, float | None]] = {"density": (0.05, 1.0)}
"""Least and greatest value of a knob; others are free."""


@dataclass(frozen=True)
class Scored:
    """What a probe found: lower is better.

    Attributes:
        value: finite; NaN or infinity ranks behind all others.
        cost: of finding it, charged to the phase "search".

    Example:
        >>> Scored(2.1).value
        2.1
    """

    value: float
    cost: Cost = ZERO


Fitness = Callable[[MergeRecipe], Scored]


@dataclass(frozen=True)
class Space:
    """The numbers of a merge that are searched.

    Attributes:
        recipe: method, models and everything that stays.
        knobs: of each model, e.g. weight and density.
        filters: pieces of tensors' names with numbers of their own; the rest of the tensors have one more.
        blocks: points of each gradient over the layers; 1: one number for all layers.

    Example:
        >>> from isoflop.merge.recipe import MergeRecipe
        >>> space = Space(MergeRecipe(method="linear", models=({"path": "a"}, {"path": "b"})))
        >>> space.size, space.recipe_of([0.5, 0.25]).models[1].parameters
        (2, {'weight': [{'value': [0.25]}]})
    """

    recipe: MergeRecipe
    knobs: tuple[str, ...] = ("weight",)
    filters: tuple[str, ...] = ()
    blocks: int = 1

    def __post_init__(self) -> None:
        odd = sorted(set(self.knobs) - self.recipe.part.each)
        if odd or not self.knobs or self.recipe.slices:
            what = f"{self.recipe.method} has no knob {odd[0]!r} of each model" if odd else "slices cannot be searched"
            raise UsageError(what, where="merge search", fix=f"knobs: {', '.join(sorted(self.recipe.part.each))}")
        if self.size < 2:
            raise UsageError("one number alone is no search", where="merge search", fix="more blocks, or a filter")

    @property
    def _places(self) -> list[tuple[int, str]]:
        movable = [i for i, model in enumerate(self.recipe.models) if model.path != self.recipe.base]
        return [(i, knob) for i in movable for knob in self.knobs]

    @property
    def size(self) -> int:
        """How many numbers there are."""
        return len(self._places) * (len(self.filters) + 1) * self.blocks

    def bounds(self) -> tuple[list[float | None], list[float | None]]:
        """Least and greatest value of each number."""
        each = [BOUNDS.get(knob, (None, None)) for _, knob in self._places]
        repeated = [pair for pair in each for _ in range((len(self.filters) + 1) * self.blocks)]
        return [low for low, _ in repeated], [high for _, high in repeated]

    def recipe_of(self, genes: Sequence[float]) -> MergeRecipe:
        """The merge that ``genes`` (size,) mean."""
        left = iter(genes)
        models = list(self.recipe.models)
        for index, knob in self._places:
            entries: list[dict[str, Any]] = []
            for name in (*self.filters, None):
                value = [float(next(left)) for _ in range(self.blocks)]
                entries.append(({} if name is None else {"filter": name}) | {"value": value})
            parameters = {**models[index].parameters, knob: entries}
            models[index] = models[index].model_copy(update={"parameters": parameters})
        return self.recipe.model_copy(update={"models": tuple(models)})


def search(
    space: Space, fitness: Fitness, out: Path, *, trials: int = 100, seed: int = 0, sigma: float = 1 / 6
) -> float:
    """Search for the best merge; the value of the best trial, whose merge is ``out/merge.toml``.

    Args:
        space: what is searched; every number begins at 0.5.
        fitness: called once a trial.
        out: directory of trials, bill and the best merge; one of the same search is continued.
        trials: merges that are scored.
        seed: of the search; equal seeds give equal trials.
        sigma: standard deviation of the first trials' numbers.

    Raises:
        UsageError: ``out`` holds another search, another process works there, or the extra ``search`` is missing.

    Example, with ``write(path, **tensors)`` a directory of weights:
        >>> from isoflop.merge.recipe import MergeRecipe
        >>> write("a", w=[1.0, 2.0]); write("b", w=[3.0, 4.0])
        >>> def fitness(recipe):
        ...     first, second = (source.parameters["weight"][0]["value"][0] for source in recipe.models)
        ...     return Scored(abs(first - 0.6) + abs(second - 0.4))
        >>> space = Space(MergeRecipe(method="linear", models=({"path": "a"}, {"path": "b"})))
        >>> search(space, fitness, Path("found"), trials=12) < 0.3
        True
    """
    with alone_in(out):
        return _search(space, fitness, out, trials, seed, sigma)


def _search(space: Space, fitness: Fitness, out: Path, trials: int, seed: int, sigma: float) -> float:
    identity = {"search": digest([space.recipe.model_dump(mode="json"), *_said(space), seed, sigma])}
    done = _begun(out, identity)
    ledger, best = Ledger(), (float("inf"), [0.0])
    for number, genes in enumerate(_asked(space, seed, sigma, lambda: [t["value"] for t in done])):
        if number >= trials:
            break
        if number >= len(done):
            scored = fitness(space.recipe_of(genes))
            value = scored.value if np.isfinite(scored.value) else np.finfo(float).max
            done.append({"trial": number, "genes": genes, "value": float(value), "cost": asdict(scored.cost)})
            append_jsonl(out / TRIALS, done[-1])
        elif done[number]["genes"] != genes:
            raise DataError(f"trial {number} is not one of this search", where=str(out / TRIALS), fix="remove the file")
        ledger.add("search", Cost(**{_OLDER.get(key, key): n for key, n in done[number]["cost"].items()}))
        best = min(best, (done[number]["value"], genes))
    write_json(out / BILL, ledger.to_json())
    found = space.recipe_of(best[1]).model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    write_atomic(out / BEST, tomli_w.dumps(found))
    return float(best[0])


def _said(space: Space) -> list[Any]:
    return [list(space.knobs), list(space.filters), space.blocks]


def _begun(out: Path, identity: Mapping[str, str]) -> list[dict[str, Any]]:
    """The trials that ``out`` holds already; its first line says of which search."""
    if not (out / TRIALS).exists():
        append_jsonl(out / TRIALS, identity)
        return []
    mend_jsonl(out / TRIALS)
    head, *done = read_jsonl(out / TRIALS)
    if head != identity:
        raise UsageError("holds another search", where=str(out), fix="choose another output")
    return done


def _asked(space: Space, seed: int, sigma: float, values: Callable[[], list[float]]) -> Iterator[list[float]]:
    """The points that CMA-ES asks for, endlessly; ``values`` are those of all points so far, in order."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it says what it could plot
            import cma
    except ImportError:
        raise UsageError("needs the package cma", where="merge search", fix="pip install 'isoflop[search]'") from None
    rng, calls = Rng(seed)("merge search"), iter(range(1 << 62))
    options = {
        "bounds": [list(side) for side in space.bounds()],
        "randn": lambda *shape: rng.at(next(calls)).standard_normal(shape),
        "seed": float("nan"),  # never the global generator
        "verbose": -9,
        "verb_log": 0,
    }
    strategy, first = cma.CMAEvolutionStrategy([0.5] * space.size, sigma, options), 0
    while True:
        points = strategy.ask()
        for point in points:
            yield [float(x) for x in point]
        strategy.tell(points, values()[first : first + len(points)])
        first += len(points)

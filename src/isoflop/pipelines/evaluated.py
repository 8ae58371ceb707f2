"""Merging runs by the weights that they are evaluated with: written out beside the output first, removed after it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..core.contracts import merged
from ..core.errors import UsageError
from ..core.reading import user_path
from ..merge.lora_trained import write_weights
from ..merge.recipe import MergeRecipe
from ..merge.sources import is_run
from ..store.run import Run
from ..train.restore import trained

Plain = Callable[[MergeRecipe], MergeRecipe]


@contextmanager
def evaluated_runs(recipe: MergeRecipe, beside: Path) -> Iterator[Plain]:
    """While entered, what makes of a merge one that reads weights from directories, if it wants evaluated ones.

    They lie in ``<beside>.weights``, which an error leaves there: the same merge goes on with them.

    Args:
        recipe: whose runs are written out; nothing is where its ``weights`` are "trained".
        beside: the merge's output.
    """
    held = beside.with_name(f"{beside.name}.weights")
    places = (
        {} if recipe.weights == "trained" else {path: _written(path, held) for path in recipe.paths() if is_run(path)}
    )
    yield lambda asked: asked.moved(places)
    if places:
        shutil.rmtree(held, ignore_errors=True)


def _written(path: str, held: Path) -> str:
    """A run's averaged weights, parametrizations baked in, as a directory."""
    run = Run.read(user_path(path))
    found = run.checkpoint()
    if found is None:
        raise UsageError("has no checkpoint yet", where=path, fix="train it first")
    out = held / f"{run.path.name}-{run.id}-step{found[0]}"
    if not out.exists():
        write_weights(merged(trained(run, device="cpu").model), out)
    return str(out)

"""From the name of a run, or a checkpoint's directory, to what a recipe keeps of it, and back to its files.

No torch: digests are those of checkpoints' manifests. What the models cost that a run builds on is told here as well.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import with_config
from typing_extensions import TypedDict  # pydantic wants this one before Python 3.12

from ..core.errors import DataError, UsageError, nearest
from ..core.reading import read_json, user_path
from ..core.recipe import StoredRecipe
from ..core.references import Reference
from . import checkpoint
from .records import OPEN, Ancestor, Ledger, joined
from .run import Run, run_directories

_SHOWN = 5  # names of which an error lists several
WEIGHTS = "model.safetensors"
"""The file of a checkpoint that holds the weights."""


@with_config(OPEN)
class _Parts(TypedDict):
    ledger: Ledger


@with_config(OPEN)
class _State(TypedDict):
    """What is read here of a checkpoint's ``state.json``."""

    parts: _Parts


@dataclass(frozen=True)
class Found:
    """A run's checkpoint: its directory, the step, and the SHA-256 of each of its files by name.

    Example:
        >>> files = {"model.safetensors": "ab" * 32}
        >>> found = Found(run=None, directory=Path("runs/a/checkpoints/40"), step=40, files=files)
        >>> len(found.digest)
        64
    """

    run: Run
    directory: Path
    step: int
    files: Mapping[str, str]

    @property
    def digest(self) -> str:
        """SHA-256 of the weights."""
        return self.files[WEIGHTS]


def find_run(name: str, root: Path, what: str = "run") -> Run:
    """The run that ``name`` means: its directory, or its name, hash or a beginning of either, below ``root``.

    ``what`` is said to be missing where there is none.

    Example, with ``recipe`` a recipe of nine steps:
        >>> run = Run.open("runs", recipe)
        >>> find_run("small", Path("runs")).id == run.id
        True
    """
    own = user_path(name)
    if os.path.lexists(own / "resolved.json"):
        return Run.read(own)
    found = run_directories(root)
    hits = [path for path in found if path.name == name] or [
        path for path in found if path.name.startswith(name) or path.name.rpartition("-")[2].startswith(name)
    ]
    if len(hits) == 1:
        return Run.read(hits[0])
    names = [path.name for path in found]
    if not hits:
        fix = f"{nearest(name, names, listing=False)} `isoflop runs --root {root}` lists all".lstrip()
        raise UsageError(f"no {what} is named {name!r}", where=str(root), fix=fix)
    some = ", ".join(map(_told, hits[:_SHOWN]))
    more = f" and {len(hits) - _SHOWN} more" if len(hits) > _SHOWN else ""
    raise UsageError(f"{name!r} means {len(hits)} runs", where=str(root), fix=f"name one of them: {some}{more}")


def _told(path: Path) -> str:
    """A run's name; a run that never came to a checkpoint is hardly the one that is meant, so that is said."""
    return path.name if checkpoint.steps(path / checkpoint.FOLDER) else f"{path.name} (no checkpoint)"


def describe(name: str, root: Path, digest: str | None = None) -> dict[str, Any]:
    """What a recipe keeps of the run or checkpoint that ``name`` means, and the recipe that made it (``resolved``).

    Args:
        name: a run's name, directory or hash (its newest checkpoint is meant), or a checkpoint's directory.
        root: directory of runs.
        digest: that of the weights which are meant, where the user gives it.

    Raises:
        UsageError: there is no such run, or it has no checkpoint.
        DataError: it cannot be read, or holds other weights.
    """
    own = user_path(name)
    single = own.parent.name == checkpoint.FOLDER and os.path.lexists(own / checkpoint.MANIFEST)
    run = Run.read(own.parent.parent) if single else find_run(name, root)
    held = [found for found in _held(run) if not single or found.directory.name == own.name]
    if not held:
        if single:
            what = f"is damaged ({checkpoint.damage(own)})"
            raise DataError(what, where=str(own), fix="restore it from a copy, or name another one")
        run.checkpoint(lambda _: None)  # says so if it has some and all are damaged
        raise UsageError("has no checkpoint yet", where=str(run.path), fix="train it first")
    chosen = next((found for found in held if digest in (None, found.digest)), None)
    if chosen is None:
        raise _changed(name, str(digest), held)
    recipe = StoredRecipe.from_json(run.resolved, source=str(run.path / "resolved.json"))
    return {
        "run": str(chosen.directory if single else run.path),
        "recipe": run.hash,
        "digest": chosen.digest,
        "vocab_size": recipe.vocab_size,
        "steps": recipe.taken + chosen.step,
        "resolved": run.resolved,
    }


def locate(key: str, reference: Reference, root: Path) -> Found:
    """The checkpoint that a reference means, every byte of it as it was written.

    It may have moved with the root, and its run may have newer checkpoints by now.

    Args:
        key: where the reference stands in its recipe, for errors.
        reference: what the recipe says: a run, a digest.
        root: directory of runs.

    Raises:
        DataError: it is gone, damaged or another one; names the reference and both digests.
    """
    own, held = user_path(reference.run), list[Found]()
    single = own.parent.name == checkpoint.FOLDER
    place = own.parent.parent if single else own
    for path in dict.fromkeys((place, root / place.name)):
        if os.path.lexists(path / "resolved.json"):
            run = Run.read(path)
            held += [found for found in _held(run) if run.hash == reference.recipe]
    for found in held:
        if found.digest == reference.digest:
            if problem := checkpoint.damage(found.directory):
                what = f"its weights are damaged ({problem}); those with digest {reference.digest[:12]} are wanted"
                raise DataError(what, where=f"{key}: {found.directory}", fix="restore them from a copy")
            return found
    raise _changed(f"{key}: {reference.run}", reference.digest, held)


def _held(run: Run) -> Iterator[Found]:
    """The checkpoints of a run, the newest first, those left out that do not even look whole."""
    directory = run.path / checkpoint.FOLDER
    for step in checkpoint.steps(directory):
        path = directory / str(step)
        if not checkpoint.damage(path, digests=False):
            files = checkpoint.digests(path)
            if WEIGHTS in files:
                yield Found(run, path, step, files)


def _changed(where: str, wanted: str, held: Iterable[Found]) -> DataError:
    there = ", ".join(f"{found.digest[:12]} at step {found.step}" for found in held) or "nothing of that recipe"
    what = f"does not hold the weights with digest {wanted[:12]} that the recipe names; it holds {there}"
    return DataError(what, where=where, fix="restore them from a copy, or name the run anew for another recipe")


def ancestors_of(references: Mapping[str, Reference], root: Path) -> dict[str, Ancestor]:
    """What was spent on the models that a recipe names, and on theirs in turn, by the hash of the run that spent it.

    Each is charged what its run had spent when it saved the weights; one that is reached in several ways, once.
    """
    bills: list[Mapping[str, Ancestor]] = []
    for key, reference in references.items():
        if reference.published or reference.adapter:  # what that cost is not known here
            continue
        found = locate(key, reference, root)
        state = read_json(found.directory / "state.json", _State)
        own = Ancestor(name=found.run.path.name, ledger=state["parts"]["ledger"])
        bills += [{found.run.hash: own}, found.run.ancestors]
    return joined(bills)

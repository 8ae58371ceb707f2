"""Checkpoints that are whole or absent.

A checkpoint is a directory ``<directory>/<step>/`` that was filled under another name, sealed by a manifest with the
size and SHA-256 of every file, synced, and renamed in last. A kill at any instant leaves the previous ones untouched.
One process at a time writes (the run's lock); any number may read.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Callable, Container, Iterable, Iterator
from pathlib import Path
from typing import Any, cast

from ..core.digests import canonical_json, digest, digest_file
from ..core.documents import Frozen
from ..core.errors import DataError, StorageError
from ..core.files import PARTIAL, clear_leftovers, disk_errors, publish_directory, write_atomic
from ..core.reading import contained, read_errors, read_json

FOLDER = "checkpoints"
"""Folder of a run that holds its checkpoints."""
MANIFEST = "MANIFEST.json"
FORMAT = 1
# Files and digests of a checkpoint take a few kilobytes; more is no manifest, and is not read into memory.
_MANIFEST_BYTES = 1 << 24
Warn = Callable[[str], None]


class _Entry(Frozen):
    size: int
    sha256: str


class _Manifest(Frozen):
    format: int
    step: int
    files: dict[str, _Entry]
    sha256: str
    """Of the canonical JSON of the other fields."""


def _silent(message: str) -> None: ...


def commit(
    directory: Path,
    step: int,
    write: Callable[[Path], None],
    keep: int,
    warn: Warn = _silent,
    due: Container[int] | None = None,
    pinned: Container[int] = (),
) -> Path:
    """Publish the checkpoint of ``step``, then delete all but the newest ``keep`` whole ones and the pinned ones.

    Args:
        directory: the run's checkpoints; leftovers of killed writers in it are removed first.
        step: steps completed. If a good checkpoint of it exists already, that one is kept and nothing is written.
        write: fills the fresh directory that it is given with files (folders are allowed).
        keep: at least 1.
        warn: called with each warning: a checkpoint that could not be deleted.
        due: steps whose checkpoints are kept for their own sake (None: all). Any other one only makes this step safe,
            and is deleted as soon as there is a newer one.
        pinned: steps whose checkpoints are never deleted.

    Raises:
        StorageError: the disk refused; earlier checkpoints are untouched and nothing half-written is left.

    Example:
        >>> place = commit(Path("checkpoints"), 40, lambda fresh: (fresh / "x").write_text("weights"), keep=2)
        >>> place.name, steps(Path("checkpoints")), damage(place)
        ('40', [40], '')
    """
    if keep < 1:
        raise ValueError(f"keep must be at least 1, got {keep}")
    path = directory / str(step)
    with disk_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
        clear_leftovers(directory)
        if os.path.lexists(path) and damage(path):
            _discard(path)
    if not os.path.lexists(path):
        try:
            with publish_directory(path) as partial:
                write(partial)
                files = sorted(file for file in partial.rglob("*") if file.is_file())
                _seal(partial, step, files)
        except StorageError as error:
            raise _with_sizes(error, directory) from error
    _prune(directory, step, keep, warn, due, pinned)
    return path


def newest(directory: Path, warn: Warn = _silent) -> tuple[int, Path] | None:
    """Step and path of the newest checkpoint whose every byte is as written; None if there are no checkpoints.

    Each damaged one on the way is reported: "checkpoint 40 is damaged (model.safetensors: digest differs); falling back
    to 20". Changes nothing on disk.

    Args:
        directory: the run's checkpoints.
        warn: called with a sentence about each damaged one.

    Raises:
        DataError: there are checkpoints, and all of them are damaged.

    Example:
        >>> for step in (20, 40):
        ...     place = commit(Path("checkpoints"), step, lambda fresh: (fresh / "x").write_text("weights"), keep=2)
        >>> (place / "x").write_text("broken!")
        7
        >>> newest(Path("checkpoints"))[0]
        20
    """
    found = steps(directory)
    problems = []
    for index, step in enumerate(found):
        problem = damage(directory / str(step))
        if not problem:
            return step, directory / str(step)
        problems.append(f"{step} ({problem})")
        if index + 1 < len(found):
            warn(f"checkpoint {step} is damaged ({problem}); falling back to {found[index + 1]}")
    if not problems:
        return None
    raise DataError(
        f"every checkpoint is damaged: {', '.join(problems)}",
        where=str(directory),
        fix="restore one from a copy, or delete this directory to begin again from step 0",
    )


def steps(directory: Path) -> list[int]:
    """Steps of all published checkpoints, damaged ones included, the newest first."""
    names = [path.name for path in directory.glob("*") if os.path.isdir(path)]
    return sorted((int(name) for name in names if name.isascii() and name.isdecimal()), reverse=True)


def damage(path: Path, *, digests: bool = True) -> str:
    """What is wrong with the checkpoint at ``path``, "" if nothing; without ``digests`` only presence and sizes."""
    if not os.path.lexists(path / MANIFEST):
        return f"{MANIFEST}: missing"
    try:
        manifest = _read_manifest(path)
    except DataError as error:
        return f"{MANIFEST}: {error.what}"
    for name, entry in manifest.files.items():
        try:
            file = contained(path, name)
            with read_errors(file):
                size = file.stat().st_size
            if size != entry.size:
                return f"{name}: {size} bytes, not {entry.size}"
            if digests and digest_file(file) != entry.sha256:
                return f"{name}: digest differs"
        except DataError as error:
            return f"{name}: {error.what}"
    return ""


def digests(path: Path) -> dict[str, str]:
    """SHA-256 of each file of the checkpoint at ``path``, as its manifest says; DataError if that is damaged."""
    return {name: entry.sha256 for name, entry in _read_manifest(path).files.items()}


@contextlib.contextmanager
def replacing(path: Path, names: Container[str]) -> Iterator[None]:
    """Let files of the checkpoint at ``path`` be replaced, each in one move: they are not sealed meanwhile.

    Killed inside, it leaves a checkpoint that is whole, of which these files are merely not verified.
    """
    entries = _read_manifest(path).files
    kept = {name: entry.model_dump() for name, entry in entries.items() if name not in names}
    write_atomic(path / MANIFEST, _manifest(int(path.name), kept))
    yield
    found = [file for file in sorted(path.iterdir()) if file.name in names and file.is_file()]
    write_atomic(path / MANIFEST, _manifest(int(path.name), {**kept, **_entries(path, found)}))


def _seal(partial: Path, step: int, files: list[Path]) -> None:
    (partial / MANIFEST).write_text(_manifest(step, _entries(partial, files)), encoding="utf-8")


def _entries(directory: Path, files: Iterable[Path]) -> dict[str, Any]:
    return {f.relative_to(directory).as_posix(): {"size": f.stat().st_size, "sha256": digest_file(f)} for f in files}


def _manifest(step: int, entries: dict[str, Any]) -> str:
    body = {"format": FORMAT, "step": step, "files": entries}
    return canonical_json({**body, "sha256": digest(body)})


def _read_manifest(path: Path) -> _Manifest:
    """The manifest of the checkpoint at ``path``; any changed byte of it, or another directory's, is a DataError."""
    file = contained(contained(path.parent, path.name), MANIFEST)
    form = read_json(file, dict[str, Any], _MANIFEST_BYTES).get("format")
    if form != FORMAT:
        raise DataError(f"format {form!r:.20}, this version of isoflop reads {FORMAT}", where=str(file))
    manifest = cast(_Manifest, read_json(file, _Manifest, _MANIFEST_BYTES))
    tree = manifest.model_dump()
    if tree.pop("sha256") != digest(tree) or str(manifest.step) != path.name:
        raise DataError("digest differs", where=str(file))
    return manifest


def _prune(
    directory: Path, step: int, keep: int, warn: Warn, due: Container[int] | None, pinned: Container[int]
) -> None:
    """Keep the newest whole ones up to ``step``; later ones were damaged when the run fell back behind them."""
    whole = [s for s in steps(directory) if s <= step and not damage(directory / str(s), digests=False)]
    kept = [s for s in whole if s == step or due is None or s in due][:keep]
    for old in steps(directory):
        if old not in kept and not (old in whole and old in pinned):
            try:
                _discard(directory / str(old))
            except OSError as error:
                warn(f"checkpoint {old} could not be deleted ({error.strerror or error})")


def _discard(path: Path) -> None:
    """Delete a checkpoint; the rename first, so that a kill in between leaves something that is swept, not read."""
    doomed = path.with_name(f"{PARTIAL}{uuid.uuid4().hex[:8]}-{path.name}")
    path.rename(doomed)
    doomed.unlink() if doomed.is_symlink() else shutil.rmtree(doomed)  # what a link leads to is not ours


def _with_sizes(error: StorageError, directory: Path) -> StorageError:
    """The error with the bytes needed (as far as an earlier checkpoint tells) and free in its remedy."""
    if "space" not in error.what:
        return error
    free = f"{shutil.disk_usage(directory).free:,} bytes are free"
    earlier = steps(directory)[:1]
    sizes = [f.stat().st_size for s in earlier for f in (directory / str(s)).rglob("*") if f.is_file()]
    need = f"a checkpoint takes about {sum(sizes):,} bytes, " if sizes else ""
    return StorageError(error.what, where=error.where, fix=f"{need}{free}; {error.fix}")
